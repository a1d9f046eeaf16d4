"""X-SAM's inner product of gradient and eigenvector, which trackers may know already."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xsam_jax
from tests import quadratic
from xsam_jax import _inner_products, _linalg
from xsam_jax._two_gradients import Descent

SPECTRUM = [5.0, 3.0, 1.0, 0.5, -1.0]


@pytest.mark.parametrize(
    "tracker", [xsam_jax.power_iteration(every=2), xsam_jax.oja(), xsam_jax.subspace(2)]
)
def test_the_projection_is_that_on_the_steps_own_eigenvector(tracker: Any) -> None:
    """Trackers know it from other inner products. A first step and a zero gradient are special."""
    matrix, _ = quadratic.hessian(SPECTRUM)
    gradient = quadratic.grad_fn(matrix)
    tx = xsam_jax.xsam(0.1, 0.3, eigenvector=tracker, correction="projector")
    start = quadratic.start(5)
    state = tx.init(start)
    for turn in (1, 2, 0, 3):
        params = jax.tree.map(lambda leaf: turn * jnp.sin(turn * leaf), start)  # noqa: B023
        direction, state = tx.update(gradient(params), state, params, grad_fn=gradient)
        g, w, v = (quadratic.flat(t) for t in (gradient(params), params, state.eigenvector))
        if turn:
            w += 0.1 * g / jnp.linalg.norm(g)
        g_adv = matrix @ w
        u = g_adv / max(jnp.linalg.norm(g_adv), 1e-300)
        np.testing.assert_allclose(state.alignment, u @ v, atol=1e-6)
        np.testing.assert_allclose(quadratic.flat(direction), u - 0.3 * (u @ v) * v, atol=1e-12)


@pytest.mark.parametrize("tracker", [xsam_jax.oja(), xsam_jax.subspace(2)])
def test_trackers_know_the_projection_without_a_pass(tracker: Any) -> None:
    """It is what a GPU takes. Where both gradients are the same, the product is zero."""
    matrix, _ = quadratic.hessian(SPECTRUM)
    gradient = quadratic.grad_fn(matrix)
    start = quadratic.start(5)
    pair = tracker.init(start)
    for turn, flat in ((1, False), (2, False), (0, False), (3, True), (4, False)):
        params = jax.tree.map(lambda leaf: turn * jnp.sin(turn * leaf), start)  # noqa: B023
        g = gradient(params)
        perturbation = _linalg.scaled_to(0.1, g)
        g_adv = g if flat else gradient(_linalg.combine((1, params), perturbation))
        step = Descent(g, g_adv, perturbation, params, {}, jnp.bool_(True), None)
        pair, projection = tracker.after(step, pair)
        assert jnp.any(quadratic.flat(pair.vector) != 0)
        expected = _inner_products.vdot(g_adv, pair.vector)
        np.testing.assert_allclose(projection(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("tracker", "keeps"), [(xsam_jax.oja(), False), (xsam_jax.subspace(2), True)]
)
def test_where_the_new_vector_is_not_finite_the_projection_is_on_the_old_one(
    tracker: Any, keeps: bool
) -> None:
    """Finite gradients whose difference, divided by a small radius, overflows.

    One tracker keeps its vector itself, the other has no finite value, whereupon the step does.
    """
    pair = tracker.init(jnp.zeros(2))._replace(vector=jnp.array([0.6, 0.8]))
    g, g_adv = jnp.array([8e150, 9e149]), jnp.array([6e150, -9e149])
    perturbation = _linalg.scaled_to(1e-9, g)
    step = Descent(g, g_adv, perturbation, jnp.zeros(2), {}, jnp.bool_(True), None)
    new, projection = tracker.after(step, pair)
    assert jnp.isfinite(new.value) == keeps
    assert jnp.array_equal(new.vector, pair.vector) == keeps
    np.testing.assert_allclose(projection(), g_adv @ pair.vector, rtol=1e-12)


def test_a_gpu_does_not_pass_over_the_new_vector() -> None:
    params = jnp.ones(4096)  # whole blocks
    tx = xsam_jax.xsam(eigenvector=xsam_jax.oja())

    def update(g: chex.Array, state: Any) -> Any:
        return tx.update(g, state, params, grad_fn=jnp.cos)

    def sums(platform: str) -> int:
        traced = jax.jit(update).trace(params, tx.init(params))
        return traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.reduce")

    # Two of the first gradient in the place of one of the new vector, and their last sum.
    assert sums("cuda") == sums("tpu") == sums("cpu") + 1
