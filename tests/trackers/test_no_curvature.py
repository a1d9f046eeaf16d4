"""A loss without curvature has no eigenvector, and X-SAM on it is normalised SAM."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xsam_jax

TRACKERS = {
    "oja": xsam_jax.oja(),
    "subspace": xsam_jax.subspace(),
}


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("name", ["oja", "subspace"])
def test_gradients_that_differ_by_their_rounding(name: str, scale: float) -> None:
    """As two compilations of a linear loss's gradient do."""
    slopes = scale * jnp.asarray(np.random.default_rng(0).normal(size=50), jnp.float32)

    def gradient(w: Any) -> Any:
        return slopes * (1 + 4 * float(np.finfo(np.float32).eps) * jnp.sin(1e4 * w))

    w = jnp.linspace(-1, 1, 50, dtype=jnp.float32)
    for method in (xsam_jax.xsam, xsam_jax.eigen_sam):
        tx = method(0.05, 0.5, eigenvector=TRACKERS[name])
        step = jax.jit(lambda state, tx=tx: tx.update(gradient(w), state, w, grad_fn=gradient))
        state = tx.init(w)
        for _ in range(3):
            direction, state = step(state)
        unit = direction / jnp.linalg.norm(direction)
        np.testing.assert_allclose(unit, slopes / jnp.linalg.norm(slopes), rtol=1e-5)
        np.testing.assert_array_equal(state.eigenvector, 0)


@pytest.mark.parametrize("name", ["oja", "subspace"])
@pytest.mark.parametrize("curvature", [1e-4, 1e-2, 1.0])
def test_a_small_curvature_is_found(name: str, curvature: float) -> None:
    """A hundred times the rounding of the gradients is enough."""
    scales = jnp.asarray([curvature, 0, 0], jnp.float32)
    gradient = lambda w: jnp.asarray([0.5, 0.5, 0.5], jnp.float32) + scales * w
    w = jnp.asarray([1.0, 2.0, 3.0], jnp.float32)
    tx = xsam_jax.eigen_sam(0.05, eigenvector=TRACKERS[name])
    for method in (tx, xsam_jax.xsam(0.05, eigenvector=TRACKERS[name])):
        update = jax.jit(
            lambda w, method=method: method.update(gradient(w), method.init(w), w, grad_fn=gradient)
        )
        _, state = update(w)
        np.testing.assert_allclose(np.abs(state.eigenvector), [1, 0, 0], atol=1e-5)
