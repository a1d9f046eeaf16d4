"""Norms and linear combinations of parameter trees."""

import functools
import operator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xsam_jax._inner_products import vdot
from xsam_jax._sums import statistics_dtype


class Scaled(NamedTuple):
    """A tree times a number, not multiplied out: inner products with it need no copy."""

    scale: chex.Array
    tree: chex.ArrayTree


def cast(tree: chex.ArrayTree, dtype: Any) -> chex.ArrayTree:
    """Casts every leaf to ``dtype``."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def cast_like(tree: chex.ArrayTree, like: chex.ArrayTree) -> chex.ArrayTree:
    """Casts every leaf to the dtype of its counterpart in ``like``."""
    return jax.tree.map(lambda leaf, target: leaf.astype(jnp.result_type(target)), tree, like)


def zeros_like(params: chex.ArrayTree) -> chex.ArrayTree:
    """Zeros for statistics of every parameter: float64 for float64 parameters, else float32."""
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf, statistics_dtype(leaf)), params)


def norm(tree: chex.ArrayTree, share: float = 0.1) -> chex.Array:
    """Euclidean norm over all leaves, a scalar of the statistics' dtype; see `length`."""
    return length(vdot(tree, tree), tree, share)


def length(squared: chex.Array, tree: chex.ArrayTree, share: float = 0.1) -> chex.Array:
    """Computes a tree's norm from its squared norm, 0 where that may be lost to underflow.

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


def scaled_to(length: chex.Numeric, tree: chex.ArrayTree, *, checked: bool = False) -> Scaled:
    """``length * tree / ||tree||``, and zero where the tree is zero.

    ``checked`` makes it NaN where the norm is infinite, for a tree that is not the gradient itself:
    then the step is not finite, as one is whose gradient has an infinite norm.
    """
    size = norm(tree)
    length = jnp.asarray(length, size.dtype)
    if checked:
        length = jnp.where(jnp.isinf(size), jnp.nan, length)
    return Scaled(ratio(length, size), tree)


def unit(tree: chex.ArrayTree) -> chex.ArrayTree:
    """``tree / ||tree||``, and zero where the tree is zero."""
    return scale(*scaled_to(1, tree))


def select(
    condition: chex.Array, if_true: chex.ArrayTree, if_false: chex.ArrayTree
) -> chex.ArrayTree:
    """``if_true`` where the scalar ``condition`` holds, else ``if_false``, leaf by leaf."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), if_true, if_false)


def unit_at_any_scale(tree: chex.ArrayTree) -> chex.ArrayTree:
    """The direction of a tree whose numbers may be of any size, also where their squares overflow.

    For vectors that a user gives: it takes a pass more, for the largest number.
    """
    # Of a constant XLA would take the square first, which is out of range.
    tree = lax.optimization_barrier(cast(tree, statistics_dtype(tree)))
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
