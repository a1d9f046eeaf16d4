"""Lanczos' tridiagonalisation, accurate in float32 and in Krylov spaces smaller than asked for."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from xsam_jax import _linalg, _placement, _sums
from xsam_jax.curvature._hessian import FlatHessian


class Tridiagonalization(NamedTuple):
    """``basis @ H @ basis.T = tridiagonal`` with orthonormal rows of ``basis``.

    Attributes:
      basis: [num_matvecs, size]; the first row is the start vector, normalised.
      tridiagonal: [num_matvecs, num_matvecs], dense and symmetric.
    """

    basis: chex.Array
    tridiagonal: chex.Array


def tridiagonalize(
    hessian: FlatHessian, num_matvecs: int, key: chex.PRNGKey, start: chex.Array | None = None
) -> Tridiagonalization:
    """Runs Lanczos from one start vector, with full reorthogonalisation.

    The Krylov space of one vector has at most as many dimensions as the Hessian has distinct
    eigenvalues: one for the identity, two for a rank-one Hessian. Beyond it the residual that
    should become the next basis vector is a rounding error. It is orthogonalised again once it has
    norm one, and replaced by a random vector where little of it is left. The factorisation goes on
    from there, the two parts of the tridiagonal matrix being coupled by that residual's own norm,
    zero or all but zero.

    matfree's factorisation is not used, because it loses its orthogonality in float32: it
    multiplies the basis with a vector, and XLA:CPU adds such a product up in one float32 number.

    Args:
      hessian: The matrix.
      num_matvecs: Number of basis vectors, at most ``hessian.size``.
      key: Random key of the start vector and of those that replace a residual.
      start: [size], the start vector, random where this is zero or not finite.
    """
    size, dtype = hessian.size, hessian.dtype
    key, start_key = jax.random.split(key)
    random = jax.random.normal(start_key, (size,), dtype)
    if start is None:
        start = random
    else:
        largest = jnp.max(jnp.abs(start))
        start = jnp.where((largest > 0) & jnp.isfinite(largest), start, random)

    def step(
        i: chex.Array, carry: tuple[chex.Array, chex.Array, chex.Array, chex.Array]
    ) -> tuple[chex.Array, chex.Array, chex.Array, chex.Array]:
        basis, diagonal, off_diagonal, vector = carry
        basis = basis.at[i].set(vector)
        product = hessian.matvec(vector)
        # The first pass takes away ||H||, the second its rounding errors.
        residual = _orthogonal(_orthogonal(product, basis), basis)
        candidate = _orthogonal(_unit_row(residual), basis)

        def replaced() -> chex.Array:
            random = jax.random.normal(jax.random.fold_in(key, i), (size,), dtype)
            return _orthogonal(_unit_row(_orthogonal(random, basis)), basis)

        vector = lax.cond(row_norms(candidate) < 0.7, replaced, lambda: candidate)
        return (
            basis,
            diagonal.at[i].set(_sums.inner_products(basis[i], product)),
            off_diagonal.at[i].set(row_norms(residual)),
            _unit_row(vector),
        )

    zeros = jnp.zeros((num_matvecs,), dtype)
    before = jnp.zeros((num_matvecs, size), dtype), zeros, zeros, _unit_row(start)
    before = _placement.varying_like(before, jax.eval_shape(hessian.matvec, start))
    basis, diagonal, off_diagonal, _ = lax.fori_loop(0, num_matvecs, step, before)
    beside = jnp.diag(off_diagonal[:-1], 1)
    return Tridiagonalization(basis, jnp.diag(diagonal) + beside + beside.T)


def eigh(matrix: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Eigenvalues and eigenvectors of a symmetric matrix, also where its sums overflow."""
    # JAX would make it symmetric by a sum, which may overflow.
    values, vectors = jnp.linalg.eigh(matrix, symmetrize_input=False)
    return values, vectors


def row_norms(vectors: chex.Array) -> chex.Array:
    """Euclidean norms along the last axis, also of numbers whose squares overflow or underflow.

    The derivative at a zero vector is 0.
    """
    scale, scaled = _scaled(vectors)
    return scale * _linalg.root(_sums.inner_products(scaled, scaled))


def _orthogonal(vector: chex.Array, basis: chex.Array) -> chex.Array:
    """Removes a vector's components along the rows of ``basis``; zero rows remove nothing."""
    return vector - _sums.inner_products(basis, vector[None]) @ basis


def _unit_row(vector: chex.Array) -> chex.Array:
    """``vector / ||vector||``, also where the norm is out of range, and zero where it is zero."""
    _, scaled = _scaled(vector)
    length = row_norms(scaled)
    return scaled / jnp.where(length > 0, length, 1)


def _scaled(vectors: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Divides each row by a scale that leaves numbers of at most 8, some of them at least 1."""
    vectors = lax.optimization_barrier(vectors)  # of a constant XLA would take the square first
    largest = lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=-1))
    # XLA multiplies with reciprocals: of the largest numbers they lie below the smallest normal
    # one, which counts as zero.
    scale = jnp.where(largest > 1, largest / 8, jnp.where(largest > 0, largest, 1))
    return scale, vectors / scale[..., None]
