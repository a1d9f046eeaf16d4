"""A loss without curvature has no eigenvector, and X-SAM on it is normalised SAM."""

import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xsam_jax

TRACKERS = {
    "oja": xsam_jax.oja(),
    "subspace": xsam_jax.subspace(),
}


each = pytest.mark.parametrize(
    ("method", "name"), [*itertools.product([xsam_jax.xsam, xsam_jax.eigen_sam], TRACKERS)]
)


@each
def test_gradients_that_differ_by_their_rounding(method: Any, name: str) -> None:
    """As two compilations of a linear loss's gradient do."""
    w = jnp.linspace(-1, 1, 50, dtype=jnp.float32)
    tx = method(0.05, 0.5, eigenvector=TRACKERS[name])

    @jax.jit
    def step(slopes: chex.Array, state: Any) -> Any:
        noise = 4 * float(np.finfo(np.float32).eps)
        gradient = lambda w: slopes * (1 + noise * jnp.sin(1e4 * w))
        return tx.update(gradient(w), state, w, grad_fn=gradient)

    for scale in (1e-6, 1.0, 1e6):
        slopes = scale * jnp.asarray(np.random.default_rng(0).normal(size=50), jnp.float32)
        state = tx.init(w)
        for _ in range(3):
            direction, state = step(slopes, state)
        unit = direction / jnp.linalg.norm(direction)
        np.testing.assert_allclose(unit, slopes / jnp.linalg.norm(slopes), rtol=1e-5)
        np.testing.assert_array_equal(state.eigenvector, 0)


@each
def test_a_small_curvature_is_found(method: Any, name: str) -> None:
    """A hundred times the rounding of the gradients is enough."""
    w = jnp.asarray([1.0, 2.0, 3.0], jnp.float32)
    tx = method(0.05, eigenvector=TRACKERS[name])

    @jax.jit
    def vector(curvature: chex.Array) -> Any:
        scales = jnp.zeros(3, jnp.float32).at[0].set(curvature)
        gradient = lambda w: jnp.asarray([0.5, 0.5, 0.5], jnp.float32) + scales * w
        return tx.update(gradient(w), tx.init(w), w, grad_fn=gradient)[1].eigenvector

    for curvature in (1e-4, 1e-2, 1.0):
        found = vector(jnp.float32(curvature))
        np.testing.assert_allclose(np.abs(found), [1, 0, 0], atol=1e-5)
