"""Inner products of parameter trees, right to a few roundings."""

import itertools
from collections.abc import Callable, Iterable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xsam_jax import _placement, _sums
from xsam_jax._sums import statistics_dtype

_SMALL = 2**12  # elements of a leaf that is worth a sum of its own
_ROW = 32  # elements of a leaf's first sums: a GPU's warp


def vdot(a: chex.ArrayTree, b: chex.ArrayTree) -> chex.Array:
    """Inner product over all leaves, a scalar of the statistics' dtype."""
    return vdots((a, b))[0]


def vdots(*pairs: tuple[chex.ArrayTree, chex.ArrayTree]) -> chex.Array:
    """Inner products of pairs of like trees, [len(pairs)] of the statistics' dtype.

    Right to a few roundings, however many numbers there are. Sums of products and not dots: on TPUs
    a float32 dot multiplies in bfloat16.
    """
    if not jax.tree.leaves(pairs):
        return jnp.zeros(len(pairs), statistics_dtype(pairs))
    if not _placement.compiling():
        return _in_blocks(*pairs)
    # Accelerators add up in the tree of their threads; more and smaller sums would be slower.
    found: chex.Array = lax.platform_dependent(*pairs, cpu=_in_blocks, default=_by_rows)
    return found


def gram(*trees: chex.ArrayTree) -> chex.Array:
    """Inner products of each tree with each, [len(trees), len(trees)] of the statistics' dtype."""
    rows, columns = np.triu_indices(len(trees))
    upper = vdots(*((trees[i], trees[j]) for i, j in zip(rows, columns, strict=True)))
    place = np.zeros((len(trees), len(trees)), int)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    return upper[place]


def _in_blocks(*pairs: tuple[chex.ArrayTree, chex.ArrayTree]) -> chex.Array:
    """Computes `vdots` in sums of few numbers each, which is accurate on CPUs."""

    def sums(x: chex.Array, y: chex.Array, devices: int) -> chex.Array:
        if devices > 1:
            return _sums.divided(x * y, devices).reshape(1)
        return _sums.products(x.reshape(-1), y.reshape(-1))

    # Without the barrier XLA repeats the additions in every kernel that needs their result.
    return lax.optimization_barrier(_sums.along_rows(_terms(pairs, sums)))


def _by_rows(*pairs: tuple[chex.ArrayTree, chex.ArrayTree]) -> chex.Array:
    """Computes `vdots` by one sum for every row and one of all rows, which is fast on GPUs.

    A GPU needs two kernels for the sum of a whole array: the second is one for all leaves.
    """

    def sums(x: chex.Array, y: chex.Array, devices: int) -> chex.Array:
        products = x * y
        # Memory runs along the last axis; in a convolution kernel's gradient, as cuDNN computes it,
        # along the one before.
        axis = -2 if products.ndim > 3 and products.shape[-2] >= _ROW else -1
        if devices == 1 and products.ndim and products.shape[axis] >= _ROW:
            return jnp.sum(products, axis).reshape(-1)
        return jnp.sum(products).reshape(1)

    return jnp.sum(lax.optimization_barrier(_terms(pairs, sums)), axis=1)


def _terms(
    pairs: tuple[tuple[chex.ArrayTree, chex.ArrayTree], ...],
    sums: Callable[[chex.Array, chex.Array, int], chex.Array],
) -> chex.Array:
    """Numbers that add up to the inner products, [len(pairs), many] of the statistics' dtype.

    Args:
      pairs: of like trees.
      sums: of the products of two leaves, that may be divided among so many devices, flat.
    """
    dtype = statistics_dtype(pairs)
    leaves = [list(zip(*map(jax.tree.leaves, pair), strict=True)) for pair in pairs]
    alike = list(zip(*leaves, strict=True))
    # Where a leaf may lie on different devices of a mesh, nothing but its scalar should travel.
    devices = [_placement.devices(of_all_pairs) for of_all_pairs in alike]
    # Most leaves of a network are biases and scales: they are summed as one array.
    small = [
        number == 1 and of_all_pairs[0][0].size < _SMALL
        for number, of_all_pairs in zip(devices, alike, strict=True)
    ]

    def joined(leaves: Iterable[chex.Array]) -> chex.Array:
        return jnp.concatenate([leaf.astype(dtype).reshape(-1) for leaf in leaves])

    found = []
    for pair in leaves:
        found += [
            sums(x.astype(dtype), y.astype(dtype), number)
            for (x, y), number, is_small in zip(pair, devices, small, strict=True)
            if not is_small
        ]
        if any(small):
            xs, ys = zip(*itertools.compress(pair, small), strict=True)
            found.append(sums(joined(xs), joined(ys), 1))
    # Added up for all pairs at once: a GPU takes as long to start the sum of one.
    return jnp.concatenate(found).reshape(len(pairs), -1)
