"""The factorisation itself, which what is built on it partly corrects."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.curvature.problems import KEY, SPECTRA, quadratic, with_spectrum
from xsam_jax import curvature
from xsam_jax._hessian import flat_hessian
from xsam_jax._lanczos import tridiagonalize


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
