"""Computes a gradient in a branch of its own, which saves memory on CPU."""

import chex
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from xsam_jax import _linalg, _placement
from xsam_jax._xla.channels_last import evaluate


def computed_if(
    needed: chex.Array,
    gradient: core.ClosedJaxpr,
    shapes: chex.ArrayTree,
    params: chex.ArrayTree,
) -> chex.ArrayTree:
    """Computes a traced gradient, channels-last, and on CPU only where it is needed, in a branch.

    XLA:CPU begins a computation with the zeros that the outputs of its loops are written over. So
    two gradients whose blocks are a `lax.scan` need the memory of both, unless the second has a
    computation of its own.

    Args:
      needed: bool[]; where it is False, the result may be anything.
      gradient: of a tree like ``params``.
      shapes: those of its result.
      params: where the gradient is taken.
    """

    def compute(params: chex.ArrayTree) -> chex.ArrayTree:
        return evaluate(gradient, shapes, (params,))

    # Outside of `jax.jit` a branch is compiled anew in every step; on a mesh all devices must take
    # the same one, because a gradient may hold collectives; and `jax.vmap` refuses callbacks in it.
    if not _placement.compiling() or not _placement.on_no_mesh(params) or gradient.effects:
        return compute(params)
    # A GPU would wait for the condition. The compiler drops a branch whose condition is constant.
    needed = _placement.anywhere(needed)
    needed = lax.platform_dependent(needed, cpu=lambda x: x, default=jnp.ones_like)
    return lax.cond(needed, compute, lambda params: _linalg.cast_like(params, shapes), params)
