"""Sums of many numbers that are right to a few roundings on every processor.

A compiler may add an array up one number after the other, which loses four digits of a million
float32 numbers, or in as many parts as its kernel has lanes. Which of the two depends on the
processor, the shape and the version. Here no sum that it makes has more than `_BLOCK` terms.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

_BLOCK = 64  # terms of a sum
_LARGE = 2**22  # products that should not be stored
_HALVINGS = 4


def statistics_dtype(*trees: chex.ArrayTree) -> Any:
    """The dtype that sums over these trees have: float64 if any leaf is float64, else float32.

    Whatever the dtype of the parameters: bfloat16 keeps eight bits, so the norm of a million of its
    numbers would have none left.
    """
    leaves = jax.tree.leaves(trees)
    # As JAX has them: NumPy's float64 is its float32, unless 64 bits are enabled.
    wide = any(jnp.result_type(leaf) == jnp.float64 for leaf in leaves)
    return jnp.float64 if wide else jnp.float32


def along_rows(rows: chex.Array) -> chex.Array:
    """Adds up the numbers of every row, ``[..., n] -> [...]``."""
    while rows.shape[-1] > _BLOCK:
        # Without the barrier XLA makes one long sum of them again.
        rows = lax.optimization_barrier(_in_blocks(rows))
    return jnp.sum(rows, axis=-1)


def inner_products(x: chex.Array, y: chex.Array) -> chex.Array:
    """Inner products of rows: ``sum(x * y, axis=-1)`` of arrays ``[..., n]`` that broadcast."""
    return along_rows(lax.optimization_barrier(products(x, y)))


def products(x: chex.Array, y: chex.Array) -> chex.Array:
    """Multiplies two arrays and adds up a few products each.

    The first step of an inner product, ``[..., n], [..., n] -> [..., fewer]``; `along_rows` adds up
    what is left.

    XLA:CPU stores the products that it sums in blocks. Many products are first added up by halves,
    which are additions of whole arrays: each is passed over once, and nothing is stored.
    """
    if x.size <= _LARGE:
        return _in_blocks(x, y)
    part = functools.partial(lax.slice_in_dim, axis=-1)
    whole = x.shape[-1] >> _HALVINGS << _HALVINGS
    sums = part(x, 0, whole) * part(y, 0, whole)
    for _ in range(_HALVINGS):
        half = sums.shape[-1] // 2
        sums = part(sums, 0, half) + part(sums, half, None)
    # Products of their own: the others would be stored if they were used twice.
    rest = part(x, whole, None) * part(y, whole, None)
    return jnp.concatenate([sums, rest], axis=-1) if rest.size else sums


def divided(array: chex.Array, devices: int) -> chex.Array:
    """Adds up an array that is divided among devices; only sums travel between them.

    Axis by axis. An axis is cut into blocks where each device has whole ones, however many of the
    devices share it; the sum along another is the compiler's.
    """
    while array.ndim:
        size = array.shape[-1]
        if size > _BLOCK and size % (_BLOCK * devices) == 0:
            array = array.reshape(*array.shape[:-1], -1, _BLOCK)
        array = lax.optimization_barrier(jnp.sum(array, axis=-1))
    return array


def _in_blocks(*factors: chex.Array) -> chex.Array:
    """Adds up blocks of `_BLOCK` numbers of a row, or of products of two; the last has the rest."""

    def sums(start: int, end: int, terms: int) -> chex.Array:
        parts = [lax.slice_in_dim(factor, start, end, axis=-1) for factor in factors]
        product = functools.reduce(jnp.multiply, parts)
        return jnp.sum(product.reshape(*product.shape[:-1], -1, terms), axis=-1)

    size = factors[0].shape[-1]
    rest = size % _BLOCK
    found = [sums(0, size - rest, _BLOCK)] if size >= _BLOCK else []
    if rest:
        found.append(sums(size - rest, size, rest))
    return jnp.concatenate(found, axis=-1) if found else jnp.zeros_like(factors[0])
