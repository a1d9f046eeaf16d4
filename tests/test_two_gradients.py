"""What all methods share: arguments, zero and non-finite gradients, averaging over devices."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import xsam_jax
from tests import quadratic

METHODS: dict[str, Callable[..., optax.GradientTransformationExtraArgs]] = {
    "sam": xsam_jax.sam,
    "asam": functools.partial(xsam_jax.sam, adaptive=True),
    "gsam": xsam_jax.gsam,
    "wsam": xsam_jax.wsam,
    "wsam_decoupled": functools.partial(xsam_jax.wsam_decoupled, optax.identity(), 1.0),
    "eigen_sam": xsam_jax.eigen_sam,
    "friendly_sam": xsam_jax.friendly_sam,
    "xsam": xsam_jax.xsam,
    "xsam_oja": functools.partial(xsam_jax.xsam, eigenvector=xsam_jax.oja()),
}
every_method = pytest.mark.parametrize("method", METHODS)

SPECTRUM = [5.0, 3.0, 1.0, 0.5, -1.0]


@every_method
def test_zero_gradient_gives_a_zero_direction(method: str) -> None:
    params = quadratic.tree(jnp.zeros(5))
    gradient = quadratic.grad_fn(quadratic.hessian(SPECTRUM)[0])
    tx = METHODS[method]()
    direction, state = tx.update(gradient(params), tx.init(params), params, grad_fn=gradient)
    np.testing.assert_array_equal(quadratic.flat(direction), 0)
    for leaf in jax.tree.leaves(state):
        assert np.isfinite(leaf).all()


@every_method
@pytest.mark.parametrize("where", ["updates", "grad_fn"])
def test_a_step_that_is_not_finite_changes_only_the_count(method: str, where: str) -> None:
    params = quadratic.start(5)
    gradient = quadratic.grad_fn(quadratic.hessian(SPECTRUM)[0])
    tx = METHODS[method]()
    _, good = tx.update(gradient(params), tx.init(params), params, grad_fn=gradient)
    for bad in (jnp.nan, jnp.inf):
        broken = lambda w: jax.tree.map(lambda leaf: leaf.at[0].set(bad), gradient(w))  # noqa: B023
        updates = broken(params) if where == "updates" else gradient(params)
        direction, state = tx.update(
            updates, good, params, grad_fn=broken if where == "grad_fn" else gradient
        )
        assert not np.isfinite(quadratic.flat(direction)).any()
        chex.assert_trees_all_equal(state, good._replace(count=good.count + 1))


@every_method
def test_update_has_the_updates_dtypes_and_the_statistics_at_least_float32(method: str) -> None:
    params = {"a": jnp.ones((2, 1), jnp.bfloat16), "b": jnp.ones(3, jnp.float16)}
    gradient = jax.grad(
        lambda w: sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(w))
    )
    tx = METHODS[method]()
    state = tx.init(params)
    for _ in range(2):
        direction, state = tx.update(gradient(params), state, params, grad_fn=gradient)
    chex.assert_trees_all_equal_shapes_and_dtypes(direction, params)
    for leaf in jax.tree.leaves(state):
        assert leaf.dtype in (jnp.float32, jnp.int32)


@every_method
def test_arguments_of_update(method: str) -> None:
    params = quadratic.start(5)
    gradient = quadratic.grad_fn(jnp.eye(5))
    tx = METHODS[method]()
    state, g = tx.init(params), gradient(params)
    with pytest.raises(ValueError, match="params must be given"):
        tx.update(g, state, grad_fn=gradient)
    with pytest.raises(ValueError, match="grad_fn must be a function params -> gradient"):
        tx.update(g, state, params)
    with pytest.raises(TypeError, match=r"grad_fn must be a function .*, got 3"):
        tx.update(g, state, params, grad_fn=3)
    with pytest.raises(TypeError, match="curvature_grad_fn must be a function"):
        tx.update(g, state, params, grad_fn=gradient, curvature_grad_fn=3)
    with pytest.raises(ValueError, match="updates must have the tree structure of params"):
        tx.update({"a": g["a"]}, state, params, grad_fn=gradient)
    with pytest.raises(ValueError, match="result of grad_fn must have the tree structure"):
        tx.update(g, state, params, grad_fn=lambda w: gradient(w)["a"])
    with pytest.raises(ValueError, match=r"shapes of params: at \['b'\] \(3,\) is expected"):
        tx.update(g, state, params, grad_fn=lambda w: {**gradient(w), "b": jnp.ones(2)})
    with pytest.raises(TypeError, match=r"params must be real .* got int.*\['n'\]"):
        tx.update({"n": jnp.arange(2)}, state, {"n": jnp.arange(2)}, grad_fn=gradient)
    direction, _ = tx.update(g, state, params, grad_fn=gradient, value=1.0, unknown="ignored")
    expected, _ = tx.update(g, state, params, grad_fn=gradient)
    chex.assert_trees_all_equal(direction, expected)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: xsam_jax.sam(rho=-1), ValueError, "rho must be a number >= 0, got -1"),
        (lambda: xsam_jax.sam(rho=jnp.nan), ValueError, "rho must be a number >= 0, got nan"),
        (lambda: xsam_jax.sam(rho="0.1"), TypeError, "rho must be a number >= 0, got '0.1'"),
        (lambda: xsam_jax.sam(rho=jnp.ones(2)), TypeError, "rho must be a number >= 0"),
        (lambda: xsam_jax.sam(rho=True), TypeError, "rho must be a number >= 0, got True"),
        (lambda: xsam_jax.sam(adaptive=1), TypeError, "adaptive must be True or False, got 1"),
        (lambda: xsam_jax.gsam(alpha=-0.1), ValueError, "alpha must be a number >= 0, got -0.1"),
        (
            lambda: xsam_jax.wsam(gamma=1.0),
            ValueError,
            r"gamma must be a number in \[0, 1\), got 1",
        ),
        (lambda: xsam_jax.wsam(gamma=2), ValueError, r"gamma must be a number in \[0, 1\), got 2"),
        (lambda: xsam_jax.wsam_decoupled("sgd", 0.1), TypeError, "base must be an optax"),
        (
            lambda: xsam_jax.wsam_decoupled(optax.sgd(0.1), -0.1),
            ValueError,
            "learning_rate must be a number >= 0, got -0.1",
        ),
        (lambda: xsam_jax.friendly_sam(decay=1.5), ValueError, r"decay must be .* \[0, 1\]"),
        (lambda: xsam_jax.xsam(alpha=2.5), ValueError, r"alpha must be a number in \[0, 2\]"),
        (
            lambda: xsam_jax.xsam(correction="sign"),
            ValueError,
            "correction must be 'signed' or 'projector', got 'sign'",
        ),
        (lambda: xsam_jax.xsam(normalize="no"), TypeError, "normalize must be True or False"),
        (
            lambda: xsam_jax.xsam(eigenvector=jnp.ones(3)),
            TypeError,
            r"eigenvector must be power_iteration\(\), oja\(\), subspace\(\) or another Tracker",
        ),
        (
            lambda: xsam_jax.eigen_sam(eigenvector=xsam_jax.oja),
            TypeError,
            r"eigenvector must be power_iteration\(\), oja\(\), subspace\(\) or another Tracker",
        ),
        (lambda: xsam_jax.power_iteration(every=0), ValueError, "every must be an integer in"),
        (lambda: xsam_jax.power_iteration(every=2**31), ValueError, r"every .* \[1, 2147483647\]"),
        (lambda: xsam_jax.power_iteration(iters=2.0), TypeError, "iters must be an integer >= 1"),
        (lambda: xsam_jax.power_iteration(seed=-1), ValueError, "seed must be an integer in"),
        (lambda: xsam_jax.oja(rate=0), ValueError, "rate must be a number > 0, got 0"),
    ],
)
def test_static_arguments(make: Callable[[], Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_custom_vjp_without_forward_derivative_says_so() -> None:
    @jax.custom_vjp
    def gradient(w: chex.ArrayTree) -> chex.ArrayTree:
        return w

    gradient.defvjp(lambda w: (w, None), lambda _, g: (g,))
    params = quadratic.start(3)
    tx = xsam_jax.xsam()
    with pytest.raises(TypeError, match=r"differentiable in forward mode.*curvature_grad_fn"):
        tx.update(params, tx.init(params), params, grad_fn=gradient)
