"""Inner products and linear combinations of parameter trees.

Statistics accumulate in float32, or in float64 where a leaf is float64, whatever the dtype of the
parameters: bfloat16 keeps eight bits, so the norm of a million of its numbers has none left.
"""

import functools
import itertools
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xsam_jax import _placement, _sums

_SMALL = 2**12  # elements of a leaf that is worth a sum of its own
_ROW = 32  # elements of a leaf's first sums: a GPU's warp


class Scaled(NamedTuple):
    """``scale * tree``, not multiplied out: inner products with it need no copy of the tree."""

    scale: chex.Array
    tree: chex.ArrayTree


def statistics_dtype(*trees: chex.ArrayTree) -> Any:
    """float64 if any leaf is float64, else float32."""
    leaves = jax.tree.leaves(trees)
    # As JAX has them: NumPy's float64 is its float32, unless 64 bits are enabled.
    wide = any(jnp.result_type(leaf) == jnp.float64 for leaf in leaves)
    return jnp.float64 if wide else jnp.float32


def cast(tree: chex.ArrayTree, dtype: Any) -> chex.ArrayTree:
    """Every leaf as ``dtype``."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def cast_like(tree: chex.ArrayTree, like: chex.ArrayTree) -> chex.ArrayTree:
    """Every leaf with the dtype of its counterpart in ``like``."""
    return jax.tree.map(lambda leaf, target: leaf.astype(jnp.result_type(target)), tree, like)


def zeros_like(params: chex.ArrayTree) -> chex.ArrayTree:
    """Zeros for statistics of every parameter: float64 for float64 parameters, else float32."""
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf, statistics_dtype(leaf)), params)


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
    """All inner products of some trees, [len(trees), len(trees)] of the statistics' dtype."""
    rows, columns = np.triu_indices(len(trees))
    upper = vdots(*((trees[i], trees[j]) for i, j in zip(rows, columns, strict=True)))
    place = np.zeros((len(trees), len(trees)), int)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    return upper[place]


def norm(tree: chex.ArrayTree, share: float = 0.1) -> chex.Array:
    """Euclidean norm over all leaves, a scalar of the statistics' dtype; see `length`."""
    return length(vdot(tree, tree), tree, share)


def length(squared: chex.Array, tree: chex.ArrayTree, share: float = 0.1) -> chex.Array:
    """The norm of a tree whose inner product with itself is known, and 0 where that is lost.

    A number's square below the smallest normal one counts as 0. Where that may have happened to
    more than a share of the sum, a tenth, a vector divided by its root would be far longer than
    one.
    """
    numbers = sum(leaf.size for leaf in jax.tree.leaves(tree))
    lost = numbers / share * float(np.finfo(squared.dtype).tiny)
    return root(jnp.where(squared < lost, 0, squared))


def root(x: chex.Array) -> chex.Array:
    """``sqrt(x)``, whose derivative at 0 is 0 and not infinite."""
    return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))


def combine(*terms: tuple[chex.Numeric, chex.ArrayTree]) -> chex.ArrayTree:
    """``a * x + b * y + ...`` for ``(a, x), (b, y), ...``; leaves of the statistics' dtype."""
    coefficients, trees = zip(*terms, strict=True)
    dtype = statistics_dtype(*trees)
    scalars = [jnp.asarray(coefficient, dtype) for coefficient in coefficients]

    def leaf_sum(*leaves: chex.Array) -> chex.Array:
        products = [c * leaf.astype(dtype) for c, leaf in zip(scalars, leaves, strict=True)]
        return functools.reduce(operator.add, products)

    return jax.tree.map(leaf_sum, *trees)


def scale(coefficient: chex.Numeric, tree: chex.ArrayTree) -> chex.ArrayTree:
    """``coefficient * tree``; leaves of the statistics' dtype."""
    return combine((coefficient, tree))


def multiply(a: chex.ArrayTree, b: chex.ArrayTree) -> chex.ArrayTree:
    """Elementwise product; leaves of the statistics' dtype."""
    dtype = statistics_dtype(a, b)
    return jax.tree.map(lambda x, y: x.astype(dtype) * y.astype(dtype), a, b)


def ratio(a: chex.Numeric, b: chex.Array) -> chex.Array:
    """``a / b``, and 0 where b is 0: the unit vector of a zero vector is zero, not NaN."""
    # The division comes last: XLA:CPU repeats in every kernel what needs no more than a product.
    return jnp.where(b == 0, 0, a) / jnp.where(b == 0, 1, b)


def reciprocal(x: chex.Array) -> chex.Array:
    """``1 / x``, and 0 where x is 0."""
    return ratio(1, x)


def scaled_to(length: chex.Numeric, tree: chex.ArrayTree) -> Scaled:
    """``length * tree / ||tree||``, and zero where the tree is zero."""
    size = norm(tree)
    return Scaled(ratio(jnp.asarray(length, size.dtype), size), tree)


def unit(tree: chex.ArrayTree) -> chex.ArrayTree:
    """``tree / ||tree||``, and zero where the tree is zero."""
    return scale(*scaled_to(1, tree))


def select(
    condition: chex.Array, if_true: chex.ArrayTree, if_false: chex.ArrayTree
) -> chex.ArrayTree:
    """``if_true`` where the scalar ``condition`` holds, else ``if_false``, leaf by leaf."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), if_true, if_false)


def unit_at_any_scale(tree: chex.ArrayTree) -> chex.ArrayTree:
    """`unit`, also where the squares of the numbers are beyond float32's range.

    For vectors that a user gives: it takes a pass more, for the largest number.
    """
    tree = cast(tree, statistics_dtype(tree))
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.size]
    if not leaves:
        return tree
    largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(leaf)) for leaf in leaves])
    # The unit vector does not depend on the factor, so neither does its derivative.
    largest = lax.stop_gradient(largest)
    # The reciprocals of the largest numbers are below the smallest normal one, which is zero.
    largest = jnp.where(largest > 1, largest / 8, largest)
    # What is below it itself may be zero or not.
    largest = jnp.where(largest < float(np.finfo(largest.dtype).tiny), 0, largest)
    return unit(scale(reciprocal(largest), tree))


def scaled_or_nan(length: chex.Numeric, tree: chex.ArrayTree) -> Scaled:
    """`scaled_to`, and NaN where the norm is infinite, for a tree that is not the gradient itself.

    With NaN the step is not finite, as one is whose gradient has an infinite norm.
    """
    size = norm(tree)
    return Scaled(ratio(jnp.where(jnp.isinf(size), jnp.nan, length), size), tree)


def _in_blocks(*pairs: tuple[chex.ArrayTree, chex.ArrayTree]) -> chex.Array:
    """`vdots` by sums of few numbers each."""

    def sums(x: chex.Array, y: chex.Array, devices: int) -> chex.Array:
        if devices > 1:
            return _sums.divided(x * y, devices).reshape(1)
        return _sums.products(x.reshape(-1), y.reshape(-1))

    # Without the barrier XLA repeats the additions in every kernel that needs their result.
    return lax.optimization_barrier(_sums.along_rows(_terms(pairs, sums)))


def _by_rows(*pairs: tuple[chex.ArrayTree, chex.ArrayTree]) -> chex.Array:
    """`vdots` by one sum of every row, and one of all rows.

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
    """Terms of inner products, [len(pairs), many] of the statistics' dtype.

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
