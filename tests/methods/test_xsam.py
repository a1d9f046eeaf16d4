"""X-SAM: limits, invariances and the two readings of Eq. 11."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xsam_jax
from tests import problem_a, quadratic

SPECTRUM = [5.0, 3.0, 1.0, 0.5, -1.0]


def _negated(tracker: Any) -> Any:
    """Change the sign of a tracker's eigenvector."""

    def before(*args: Any) -> Any:
        pair = tracker.before(*args)
        return pair._replace(vector=jax.tree.map(jnp.negative, pair.vector))

    return tracker._replace(before=before)


def _direction(params: chex.ArrayTree, matrix: chex.Array, **arguments: Any) -> chex.Array:
    gradient = quadratic.grad_fn(matrix)
    tx = xsam_jax.xsam(**arguments)
    updates, _ = tx.update(gradient(params), tx.init(params), params, grad_fn=gradient)
    return quadratic.flat(updates)


def test_rho_zero_alpha_zero_unnormalized_is_the_base_optimizer() -> None:
    matrix, _ = quadratic.hessian(SPECTRUM)
    params = quadratic.start(5)
    direction = _direction(params, matrix, rho=0.0, alpha=0.0, normalize=False)
    np.testing.assert_array_equal(direction, matrix @ quadratic.flat(params))


@pytest.mark.parametrize("tracker", [xsam_jax.power_iteration(every=3), xsam_jax.oja()])
def test_alpha_zero_is_normalized_sam(tracker: Any) -> None:
    base = problem_a.base("sgdm", 0.05)
    xsam = xsam_jax.xsam(0.1, alpha=0.0, eigenvector=tracker)
    by_hand = optax.chain(xsam_jax.sam(0.1), optax.contrib.normalize(), base)
    actual, _ = problem_a.run(optax.chain(xsam, base))
    expected, _ = problem_a.run(by_hand)
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-12)
    # README's, which optax keeps from dividing by zero: 1e-6 of a norm of 0.1 and more.
    advised = optax.chain(xsam_jax.sam(0.1), optax.normalize_by_update_norm(), base)
    actual, _ = problem_a.run(advised)
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-4)
    zero = jnp.zeros(3)
    direction, _ = advised.update(zero, advised.init(zero), zero, grad_fn=jnp.zeros_like)
    np.testing.assert_array_equal(direction, 0)


def test_alpha_zero_unnormalized_is_sam() -> None:
    actual, _ = problem_a.run(optax.chain(xsam_jax.xsam(0.1, 0.0, normalize=False), optax.sgd(0.1)))
    expected, _ = problem_a.run(optax.chain(xsam_jax.sam(0.1), optax.sgd(0.1)))
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-12)


@jax.jit
def _both_readings(
    params: chex.ArrayTree, v: chex.ArrayTree, rho: chex.Array, alpha: chex.Array
) -> dict[tuple[str, int], chex.Array]:
    """Compute the directions of both readings for both signs of the eigenvector."""
    matrix, _ = quadratic.hessian(SPECTRUM)
    tracker = xsam_jax.power_iteration(iters=3, start=v)
    return {
        (correction, sign): _direction(
            params, matrix, rho=rho, alpha=alpha, correction=correction, eigenvector=t
        )
        for correction in ("signed", "projector")
        for sign, t in ((1, tracker), (-1, _negated(tracker)))
    }


@settings(max_examples=25, deadline=None)
@given(alpha=st.floats(0, 2), rho=st.floats(0, 1), seed=st.integers(0, 2**16))
def test_the_two_readings(alpha: float, rho: float, seed: int) -> None:
    """The projector does not see the sign of v; Eq. 11 as printed does."""
    matrix, _ = quadratic.hessian(SPECTRUM)
    params = quadratic.start(5, seed=seed)
    v = quadratic.start(5, seed=seed + 1)
    directions = _both_readings(params, v, rho, alpha)
    np.testing.assert_allclose(
        directions["projector", 1], directions["projector", -1], rtol=0, atol=1e-12
    )

    w = quadratic.flat(params)
    g = matrix @ w
    g_adv = matrix @ (w + rho * g / jnp.linalg.norm(g))
    u = g_adv / jnp.linalg.norm(g_adv)
    vector = quadratic.flat(v)
    for _ in range(3):
        vector = matrix @ vector / jnp.linalg.norm(matrix @ vector)
    component = u @ vector
    # The projector keeps 1 - alpha of the component; Eq. 11 keeps 1 - alpha of a positive one and
    # 1 + alpha of a negative one, and v is as good an eigenvector as -v.
    np.testing.assert_allclose(
        directions["projector", 1] @ vector, (1 - alpha) * component, rtol=0, atol=1e-10
    )
    for sign in (1, -1):
        kept = 1 - alpha if sign * component > 0 else 1 + alpha
        np.testing.assert_allclose(
            directions["signed", sign] @ vector, kept * component, rtol=0, atol=1e-10
        )
        # Orthogonally to v both leave the gradient as it is.
        orthogonal = directions["signed", sign] - (directions["signed", sign] @ vector) * vector
        np.testing.assert_allclose(orthogonal, u - component * vector, rtol=0, atol=1e-10)


def test_alpha_may_be_a_schedule() -> None:
    matrix, _ = quadratic.hessian(SPECTRUM)
    gradient, params = quadratic.grad_fn(matrix), quadratic.start(5)
    start = quadratic.start(5, seed=3)
    make = functools.partial(
        xsam_jax.xsam,
        eigenvector=xsam_jax.power_iteration(every=1, warm_start=False, start=start),
    )
    tx = make(alpha=lambda count: jnp.where(count < 1, 0.2, 1.0))
    state = tx.init(params)
    for alpha in (0.2, 1.0):
        direction, state = tx.update(gradient(params), state, params, grad_fn=gradient)
        expected, _ = make(alpha=alpha).update(
            gradient(params), tx.init(params), params, grad_fn=gradient
        )
        chex.assert_trees_all_close(direction, expected, rtol=1e-12)


def test_curvature_grad_fn_serves_the_products_only() -> None:
    matrix, vectors = quadratic.hessian(SPECTRUM)
    other, other_vectors = quadratic.hessian(SPECTRUM, seed=7)
    params = quadratic.start(5)
    gradient = quadratic.grad_fn(matrix)
    tx = xsam_jax.xsam(
        rho=0.2, alpha=0.0, normalize=False, eigenvector=xsam_jax.power_iteration(iters=100)
    )
    direction, state = tx.update(
        gradient(params),
        tx.init(params),
        params,
        grad_fn=gradient,
        curvature_grad_fn=quadratic.grad_fn(other),
    )
    expected, _ = xsam_jax.sam(0.2).update(
        gradient(params), xsam_jax.sam().init(params), params, grad_fn=gradient
    )
    chex.assert_trees_all_close(direction, expected, rtol=1e-12)
    v = quadratic.flat(state.eigenvector)
    np.testing.assert_allclose(jnp.abs(v @ other_vectors[:, 0]), 1, rtol=1e-9)
    assert jnp.abs(v @ vectors[:, 0]) < 0.99


def test_alignment_and_fields() -> None:
    matrix, _ = quadratic.hessian(SPECTRUM)
    params = quadratic.start(5, dtype=jnp.float32)
    gradient = quadratic.grad_fn(matrix)
    tx = xsam_jax.xsam(rho=0.1, eigenvector=xsam_jax.power_iteration(iters=50))
    direction, state = tx.update(gradient(params), tx.init(params), params, grad_fn=gradient)
    chex.assert_trees_all_equal_dtypes(direction, params)
    assert state.count == 1
    for field in (state.eigenvalue, state.alignment, *jax.tree.leaves(state.eigenvector)):
        assert field.dtype == jnp.float32
    w = quadratic.flat(params)
    g = matrix.astype(w.dtype) @ w
    g_adv = matrix.astype(w.dtype) @ (w + 0.1 * g / jnp.linalg.norm(g))
    v = quadratic.flat(state.eigenvector)
    np.testing.assert_allclose(state.alignment, g_adv @ v / jnp.linalg.norm(g_adv), rtol=1e-5)
    np.testing.assert_allclose(state.eigenvalue, 5.0, rtol=1e-5)


@pytest.mark.parametrize(
    "tracker", [xsam_jax.power_iteration(every=1), xsam_jax.oja(), xsam_jax.subspace(2)]
)
def test_no_direction_is_longer_than_one_however_small_the_gradient(tracker: Any) -> None:
    """One that vanishes passes 1e-19, where the squares of its numbers are lost."""
    size = 10_000
    curvatures = jnp.asarray(np.random.default_rng(0).normal(size=size), jnp.float32)
    params = jnp.ones(size, jnp.float32)
    tx = xsam_jax.xsam(0.05, 0.2, eigenvector=tracker, correction="projector")

    def norms(exponent: chex.Array) -> tuple[chex.Array, chex.Array]:
        gradient = lambda w: jnp.exp2(exponent) * curvatures * w
        state = tx.init(params)
        for _ in range(2):
            direction, state = tx.update(gradient(params), state, params, grad_fn=gradient)
        return direction, state.eigenvector

    trees = jax.jit(jax.vmap(norms))(jnp.arange(-80, -40, dtype=jnp.float32))
    for found in trees:
        lengths = np.linalg.norm(np.asarray(found, float), axis=1)
        assert lengths[-1] > 0.8
        assert max(lengths) < 1.05


@pytest.mark.parametrize("correction", ["signed", "projector"])
@pytest.mark.parametrize("side", [-1.0, 1.0])
@pytest.mark.filterwarnings("ignore:alpha = 1.5")
def test_above_one_the_step_climbs_along_the_eigenvector(correction: Any, side: float) -> None:
    """Eq. 11 as printed where ``<u, v>`` is positive; elsewhere it crosses to that side first."""
    gradient = lambda w: jnp.array([5.0, 1.0]) * w
    start = jnp.array([side, 1.0])

    def distance(alpha: float) -> float:
        tracker = xsam_jax.power_iteration(start=jnp.array([1.0, 0.1]))
        tx = optax.chain(
            xsam_jax.xsam(0.05, alpha, eigenvector=tracker, correction=correction), optax.sgd(0.02)
        )

        def step(carry: Any, _: None) -> tuple[Any, None]:
            w, state = carry
            updates, state = tx.update(gradient(w), state, w, grad_fn=gradient)
            return (optax.apply_updates(w, updates), state), None

        (w, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=300)
        return float(jnp.abs(w[0]))

    assert distance(0.5) < 0.1
    assert distance(1.5) > 1.5
