"""The factorisation itself, which what is built on it partly corrects."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.curvature.problems import KEY, SPECTRA, quadratic, with_spectrum
from xsam_jax import curvature
from xsam_jax.curvature._hessian import flat_hessian
from xsam_jax.curvature._lanczos import tridiagonalize


# The matrix is an argument, so that one compilation serves all spectra.
@jax.jit
def factors_of(matrix: chex.Array) -> tuple[chex.Array, chex.Array]:
    return tridiagonalize(flat_hessian(quadratic(matrix), jnp.zeros_like(matrix[0])), 30, KEY)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("name", SPECTRA)
def test_basis_is_orthonormal_and_projects(name: str, rotate: bool, dtype: Any) -> None:
    """Also where the Krylov space of the start vector has fewer dimensions than are asked for."""
    spectrum = np.asarray(SPECTRA[name])
    matrix = with_spectrum(spectrum, dtype, rotate=rotate)
    # As those do who call it: a GPU multiplies float32 in TF32, which keeps ten bits.
    with jax.default_matmul_precision("highest"):
        basis, tridiagonal = factors_of(matrix)
        gram, projected = basis @ basis.T, basis @ matrix @ basis.T
    tolerance = 100 * float(jnp.finfo(dtype).eps)
    chex.assert_trees_all_close(gram, jnp.eye(30, dtype=dtype), atol=tolerance)
    scale = max(1e-30, float(np.abs(spectrum).max()))
    chex.assert_trees_all_close(projected / scale, tridiagonal / scale, atol=tolerance)


@pytest.mark.parametrize("scale", [1e-30, 8.6e37, 3e38])
def test_all_that_float32_has(scale: float) -> None:
    """Numbers whose reciprocals are not normal numbers, norms out of range, sums that overflow."""
    spectrum = np.array([1.0, 0.5, 0.1, 0.0, -0.25])
    curvatures = jnp.asarray(scale * spectrum, jnp.float32)
    start = jnp.full(5, scale, jnp.float32)
    basis, tridiagonal = tridiagonalize(
        flat_hessian(lambda w: curvatures * w, start), 4, KEY, start
    )
    rows = np.asarray(basis, np.float64)
    np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(rows[0], np.full(5, 5**-0.5), rtol=1e-6)
    found = np.asarray(tridiagonal, np.float64) / scale
    np.testing.assert_allclose(found, rows * spectrum @ rows.T, atol=1e-5)
    pairs = curvature.top_eigenpairs(
        lambda w: curvatures * w, start, k=2, num_matvecs=5, start=start, key=KEY
    )
    np.testing.assert_allclose(np.asarray(pairs.values, np.float64) / scale, [1, 0.5], rtol=1e-5)


def test_millions_of_float32_parameters() -> None:
    """A dot product that adds up in one float32 number loses more than this."""
    size = 2_000_000
    normals = jax.random.normal(KEY, (size,), jnp.float32)
    curvatures = normals.at[:: size // 10].set(8 * jnp.arange(10, dtype=jnp.float32))
    pairs = curvature.top_eigenpairs(
        lambda w: curvatures * w, jnp.zeros(size, jnp.float32), num_matvecs=16, key=KEY
    )
    np.testing.assert_allclose(pairs.values[0], 72, rtol=2e-6)
    assert pairs.residuals[0] < 1e-4
