"""The Hessian of a gradient function as a symmetric matrix on flat vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xsam_jax import _checks, _placement, _sums
from xsam_jax._gradients import GradFn
from xsam_jax.curvature._hvp import hvp


class FlatHessian(NamedTuple):
    """The Hessian as a symmetric matrix of shape [size, size], known by its products.

    Attributes:
      product: ``(vector, *constants) -> Hessian times vector``, of shape [size].
      constants: all that the Hessian can be differentiated with respect to: of the parameters and
        of what the gradient function closes over.
      flatten: tree like the parameters -> [size].
      unflatten: its inverse.
      size: number of parameters.
      dtype: of the vectors.
    """

    product: Callable[..., chex.Array]
    constants: list[Any]
    flatten: Callable[[chex.ArrayTree], chex.Array]
    unflatten: Callable[[chex.Array], chex.ArrayTree]
    size: int
    dtype: Any

    def matvec(self, vector: chex.Array) -> chex.Array:
        """The Hessian times ``vector``."""
        return self.product(vector, *self.constants)

    def fixed(self) -> FlatHessian:
        """The Hessian as a constant: derivatives do not go through it."""
        return self._replace(constants=lax.stop_gradient(self.constants))


def flat_hessian(grad_fn: GradFn, params: chex.ArrayTree) -> FlatHessian:
    """Makes the Hessian of ``grad_fn`` at ``params`` a matrix on flat vectors.

    The product is traced here, once, however many loops it runs in afterwards, and keeps the
    matmul precision that is in force here.
    """
    leaves, structure = jax.tree.flatten(params)
    _checks.real("params", params)
    ends = np.cumsum([leaf.size for leaf in leaves], dtype=int)
    if not leaves or ends[-1] == 0:
        raise ValueError("params must have at least one element, got none")
    size, dtype = int(ends[-1]), _sums.statistics_dtype(params)

    def flatten(tree: chex.ArrayTree) -> chex.Array:
        return jnp.concatenate(
            [_placement.gathered(leaf).astype(dtype).reshape(-1) for leaf in jax.tree.leaves(tree)]
        )

    def unflatten(flat: chex.Array) -> chex.ArrayTree:
        pieces = jnp.split(flat, ends[:-1])
        return jax.tree.unflatten(
            structure,
            [
                _placement.shard_like(piece.reshape(leaf.shape), leaf)
                for piece, leaf in zip(pieces, leaves, strict=True)
            ],
        )

    def product(flat: chex.Array) -> chex.Array:
        return flatten(hvp(grad_fn, params, unflatten(flat)))

    vector = _placement.varying_like(jnp.zeros((size,), dtype), params)
    traced, constants = jax.closure_convert(product, vector)
    return FlatHessian(
        lambda flat, *constants: traced(_placement.varying_like(flat, params), *constants),
        constants,
        flatten,
        unflatten,
        size,
        dtype,
    )
