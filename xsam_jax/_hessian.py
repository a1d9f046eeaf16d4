"""The Hessian of a gradient function: its products with parameter trees and with flat vectors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from xsam_jax import _checks, _linalg
from xsam_jax._convolution import channels_last

GradFn = Callable[[chex.ArrayTree], chex.ArrayTree]


def hvp(grad_fn: GradFn, params: chex.ArrayTree, v: chex.ArrayTree) -> chex.ArrayTree:
    """Hessian-vector product, forward over reverse: the derivative of ``grad_fn`` along ``v``.

    It costs about two gradients and no more memory than they do; reverse over reverse costs four
    times as much. It is computed in the parameters' dtypes: bfloat16 parameters give two digits,
    and a float32 copy of them seven.

    Args:
      grad_fn: Maps parameters to the gradient of a scalar loss, a tree like ``params``.
      params: Where the Hessian is taken; real floating-point leaves of any shape.
      v: A tree like ``params``; its leaves are cast to the dtypes of ``params``.

    Returns:
      ``H v``, a tree like ``params``; leaves float32, or float64 if any leaf of ``params`` is.

    Raises:
      TypeError: A parameter is not real floating point, or the gradient runs through a
        `jax.custom_vjp` whose rules have no forward derivative.
      ValueError: ``v`` or the gradient is not a tree like ``params``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> hvp(jax.grad(lambda w: jnp.sum(w**3)), jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0]))
      Array([ 6., 12.], dtype=float32)
    """
    _check_floating(params)
    _checks.same_tree("v", v, params)
    try:
        _, product = jax.jvp(grad_fn, (params,), (_linalg.cast_like(v, params),))
    except TypeError as error:
        # Forward over reverse differentiates the two rules of a custom_vjp as ordinary functions.
        # It fails only where a rule calls a custom_vjp in turn, most often the function itself.
        if "custom_vjp" not in str(error):
            raise
        raise TypeError(
            "grad_fn must have a forward derivative, but it runs through a jax.custom_vjp whose "
            "forward or backward rule calls a custom_vjp function, perhaps itself: let the rules "
            "call undecorated functions, or use jax.custom_jvp"
        ) from error
    _checks.same_tree("the result of grad_fn", product, params)
    return _linalg.cast(product, _linalg.statistics_dtype(params))


class FlatHessian(NamedTuple):
    """The Hessian as a symmetric matrix of shape [size, size], known by its products."""

    matvec: Callable[[chex.Array], chex.Array]
    unflatten: Callable[[chex.Array], chex.ArrayTree]
    size: int
    dtype: Any


def flat_hessian(grad_fn: GradFn, params: chex.ArrayTree) -> FlatHessian:
    """The Hessian of ``grad_fn`` at ``params`` on vectors of the statistics' dtype.

    ``matvec`` is traced here, once, however many loops it runs in afterwards, and keeps the
    matmul precision that is in force here.
    """
    leaves, structure = jax.tree.flatten(params)
    _check_floating(params)
    ends = np.cumsum([leaf.size for leaf in leaves], dtype=int)
    if not leaves or ends[-1] == 0:
        raise ValueError("params must have at least one element, got none")
    size, dtype = int(ends[-1]), _linalg.statistics_dtype(params)

    def flatten(tree: chex.ArrayTree) -> chex.Array:
        return jnp.concatenate([_replicate(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)])

    def unflatten(flat: chex.Array) -> chex.ArrayTree:
        pieces = jnp.split(flat, ends[:-1])
        return jax.tree.unflatten(
            structure,
            [
                _shard_like(piece.reshape(leaf.shape), leaf)
                for piece, leaf in zip(pieces, leaves, strict=True)
            ],
        )

    @channels_last
    def product(flat: chex.Array) -> chex.Array:
        return flatten(hvp(grad_fn, params, unflatten(flat)))

    traced, constants = jax.closure_convert(product, jnp.zeros((size,), dtype))
    return FlatHessian(lambda flat: traced(flat, *constants), unflatten, size, dtype)


def _replicate(leaf: chex.Array) -> chex.Array:
    # On a mesh of explicit axes leaves of different shardings do not concatenate.
    mesh = jax.typeof(leaf).sharding.mesh
    if mesh.empty:
        return leaf
    return jax.sharding.reshard(leaf, jax.NamedSharding(mesh, jax.P()))


def _shard_like(leaf: chex.Array, like: chex.Array) -> chex.Array:
    sharding = jax.typeof(like).sharding
    return leaf if sharding.mesh.empty else jax.sharding.reshard(leaf, sharding)


def _check_floating(params: chex.ArrayTree) -> None:
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"params must be real floating-point arrays, got {leaf.dtype} at "
                f"{jax.tree_util.keystr(path)}: close grad_fn over such leaves"
            )
