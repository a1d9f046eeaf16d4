"""The caller decides in which steps the eigenvector is refreshed: ``update(..., refresh=)``."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import xsam_jax
from tests import problem_a, quadratic

EVERY = 6
# Cold starts, whose random vectors depend on the step.
TRACKER = xsam_jax.power_iteration(every=EVERY, iters=2, seed=3)
METHODS = [xsam_jax.xsam, xsam_jax.eigen_sam]


def _train(
    tx: optax.GradientTransformationExtraArgs, refresh: Callable[[int], Any]
) -> tuple[chex.ArrayTree, Any]:
    optimizer = optax.chain(tx, optax.sgd(0.1, momentum=0.9))

    @partial(jax.jit, static_argnames="refresh")
    def step(params: Any, state: Any, k: chex.Array, refresh: Any) -> tuple[Any, Any]:
        gradient = problem_a.grad_fn(k)
        updates, state = optimizer.update(
            gradient(params), state, params, grad_fn=gradient, refresh=refresh
        )
        return optax.apply_updates(params, updates), state

    params = problem_a.tree("init")
    state = optimizer.init(params)
    for k in range(problem_a.STEPS):
        params, state = step(params, state, jnp.array(k), refresh(k))
    return params, state


@pytest.mark.parametrize("method", METHODS)
def test_the_same_schedule_trains_the_same(method: Callable[..., Any]) -> None:
    tx = method(eigenvector=TRACKER)
    expected = _train(tx, lambda k: None)
    chex.assert_trees_all_close(_train(tx, lambda k: k % EVERY == 0), expected, rtol=1e-9)


def test_every_does_not_count() -> None:
    tx = xsam_jax.xsam(eigenvector=TRACKER)
    often = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(every=2, iters=2, seed=3))
    found, (state, _) = _train(tx, lambda k: np.bool_(k % 2 == 0))
    expected, (often_state, _) = _train(often, lambda k: None)
    chex.assert_trees_all_close(found, expected, rtol=1e-9)
    chex.assert_trees_all_close(state.eigenvector, often_state.eigenvector, rtol=1e-9)


class _Once:
    """A step of X-SAM on a quadratic that counts its products as they are traced."""

    def __init__(self, **options: Any) -> None:
        self.tx = xsam_jax.xsam(**options)
        self.params = quadratic.start(4)
        self.gradient = quadratic.grad_fn(quadratic.hessian([4.0, 3.0, 2.0, 1.0])[0])
        self.products = 0

    def __call__(self, state: Any, refresh: Any) -> tuple[chex.ArrayTree, Any]:
        def curvature(params: chex.ArrayTree) -> chex.ArrayTree:
            self.products += 1
            return self.gradient(params)

        extra = {"grad_fn": self.gradient, "curvature_grad_fn": curvature, "refresh": refresh}
        return self.tx.update(self.gradient(self.params), state, self.params, **extra)


def test_a_step_without_a_refresh_has_no_product_and_leaves_the_eigenpair() -> None:
    step = _Once(eigenvector=TRACKER)
    _, known = step(step.tx.init(step.params), True)
    traced = step.products
    assert traced > 0
    _, state = step(known, False)
    assert step.products == traced
    chex.assert_trees_all_equal(state._replace(count=known.count), known)


def test_without_any_refresh_x_sam_is_normalised_sam_and_makes_up_for_it_when_it_may() -> None:
    step, without = _Once(eigenvector=TRACKER), _Once(alpha=0.0)
    direction, state = step(step.tx.init(step.params), np.bool_(False))
    chex.assert_trees_all_close(direction, without(without.tx.init(step.params), False)[0])
    assert not np.any(quadratic.flat(state.eigenvector))
    _, state = step(state, None)
    np.testing.assert_allclose(jnp.linalg.norm(quadratic.flat(state.eigenvector)), 1, rtol=1e-12)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.transforms.conditionally_transform(tx, lambda step: step >= 0),
        lambda tx: optax.apply_if_finite(tx, 3),
        lambda tx: optax.inject_hyperparams(lambda rho: optax.chain(tx, optax.sgd(rho)))(rho=0.1),
    ],
    ids=["conditionally_transform", "apply_if_finite", "inject_hyperparams"],
)
def test_wrappers_hand_it_on(wrap: Callable[..., Any]) -> None:
    step = _Once(eigenvector=TRACKER)
    step.tx = wrap(step.tx)
    state = step.tx.init(step.params)
    jax.make_jaxpr(partial(step, refresh=False))(state)
    assert step.products == 0
    jax.make_jaxpr(partial(step, refresh=True))(state)
    assert step.products > 0


def test_outside_of_jit_a_step_that_is_not_due_has_no_product() -> None:
    step = _Once(eigenvector=TRACKER)
    _, state = step(step.tx.init(step.params), None)
    traced = step.products
    step(state, None)
    assert step.products == traced > 0


def test_a_refresh_that_finds_nothing_is_dropped() -> None:
    step = _Once(eigenvector=TRACKER)
    _, known = step(step.tx.init(step.params), True)
    step.gradient = lambda params: jax.tree.map(jnp.ones_like, params)  # without curvature
    _, state = step(known, True)
    chex.assert_trees_all_equal(state.eigenvector, known.eigenvector)


@pytest.mark.parametrize(
    "tx",
    [
        xsam_jax.sam(),
        xsam_jax.gsam(),
        xsam_jax.wsam(),
        xsam_jax.wsam_decoupled(optax.sgd(0.1), 0.1),
        xsam_jax.friendly_sam(),
        xsam_jax.xsam(eigenvector=xsam_jax.oja()),
        xsam_jax.eigen_sam(eigenvector=xsam_jax.subspace()),
    ],
)
def test_it_says_nothing_to_methods_without_refreshes(
    tx: optax.GradientTransformationExtraArgs,
) -> None:
    params, gradient = quadratic.start(4), quadratic.grad_fn(jnp.eye(4))
    update = partial(tx.update, gradient(params), tx.init(params), params, grad_fn=gradient)
    expected = update()
    for refresh in (True, False):
        chex.assert_trees_all_equal(update(refresh=refresh), expected)


def test_it_is_known_when_the_step_is_traced() -> None:
    step = _Once(eigenvector=TRACKER)
    state = step.tx.init(step.params)
    with pytest.raises(TypeError, match=r"refresh must be True or False .*static argument"):
        jax.jit(step)(state, True)
    with pytest.raises(TypeError, match="refresh must be True or False, got 1"):
        step(state, 1)
