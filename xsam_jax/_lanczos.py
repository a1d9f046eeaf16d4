"""Lanczos' tridiagonalisation that survives a Krylov space smaller than asked."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from matfree import decomp

from xsam_jax._hessian import FlatHessian


class Tridiagonalization(NamedTuple):
    """``basis.T @ H @ basis = tridiagonal`` with an orthonormal ``basis``.

    Attributes:
      basis: [size, num_matvecs]; the first column is the start vector, normalised.
      tridiagonal: [num_matvecs, num_matvecs], dense and symmetric.
    """

    basis: chex.Array
    tridiagonal: chex.Array


class _Attempt(NamedTuple):
    number: chex.Array
    scale: chex.Array  # ||H||, or an underestimate of it; 1 before the first attempt
    orthonormal: chex.Array
    result: Tridiagonalization


def tridiagonalize(
    hessian: FlatHessian, num_matvecs: int, key: chex.PRNGKey, start: chex.Array | None = None
) -> Tridiagonalization:
    """Lanczos from one start vector, with full reorthogonalisation.

    The Krylov space of one vector has at most as many dimensions as the Hessian has distinct
    eigenvalues: one for the identity, two for a rank-one Hessian. Beyond it the next basis vector
    is a normalised rounding error, or 0 / 0, and not orthogonal to the others. The basis is
    therefore checked, and where it is not orthonormal the factorisation is repeated for
    ``H / ||H|| + D`` with a random diagonal ``D`` of size eps**(3/4). Its eigenvalues are distinct,
    hence its Krylov space complete, and to within ``||D||`` they are those of ``H / ||H||`` (Weyl).

    Args:
      hessian: The matrix.
      num_matvecs: Number of basis vectors, at most ``hessian.size``.
      key: Random key of the start vector and of ``D``.
      start: [size], the start vector, random where this is zero or not finite.
    """
    size, dtype = hessian.size, hessian.dtype
    start_key, diagonal_key = jax.random.split(key)
    random = jax.random.normal(start_key, (size,), dtype)
    if start is None:
        start = random
    else:
        norm = jnp.linalg.norm(start)
        start = jnp.where((norm > 0) & jnp.isfinite(norm), start.astype(dtype), random)
    diagonal = jax.random.uniform(diagonal_key, (size,), dtype, -1, 1)
    eps = float(np.finfo(dtype).eps)
    factorize = decomp.tridiag_sym(num_matvecs, reortho="full", custom_vjp=False)

    def attempt(last: _Attempt) -> _Attempt:
        shift = jnp.where(last.number == 0, 0, eps**0.75).astype(dtype) * diagonal
        factors = factorize(lambda v: hessian.matvec(v) / last.scale + shift * v, start)
        basis, tridiagonal = factors.Q_tall.T, last.scale * factors.J_small
        defect = jnp.max(jnp.abs(basis.T @ basis - jnp.eye(num_matvecs, dtype=dtype)))
        # Unit vectors make no entry larger than ||H||, also where they are not orthogonal.
        scale = jnp.max(jnp.where(jnp.isfinite(tridiagonal), jnp.abs(tridiagonal), 0))
        return _Attempt(
            number=last.number + 1,
            scale=jnp.where(scale > 0, scale, 1),
            orthonormal=defect < eps**0.5,  # and not NaN
            result=Tridiagonalization(basis, tridiagonal),
        )

    before = _Attempt(
        number=jnp.int32(0),
        scale=jnp.ones((), dtype),
        orthonormal=jnp.bool_(False),
        result=Tridiagonalization(
            basis=jnp.zeros((size, num_matvecs), dtype),
            tridiagonal=jnp.zeros((num_matvecs, num_matvecs), dtype),
        ),
    )
    # A loop and not a second call behind a condition: the Hessian is compiled once.
    return lax.while_loop(lambda a: (a.number < 2) & ~a.orthonormal, attempt, before).result
