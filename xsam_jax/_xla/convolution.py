"""Computes convolutions the way XLA:CPU is fast at: channels last, and long sums in parts.

XLA:CPU has a fast kernel for channels-last convolutions, and transposes other layouts into that one
only in the entry computation. A convolution's *gradient* arrives in other layouts, so inside
``lax.cond``, ``lax.while_loop`` and ``lax.scan`` it falls to a slow generic loop
(https://github.com/jax-ml/jax/issues/12868). Explicit transposes put the fast layout into the
program itself, where it holds in every computation.

Outside of control flow as well, a kernel's gradient is slow: XLA:CPU adds up its long sums, over
all images and pixels, on one core, and out of the caches. They are summed in parts.

XLA:CPU also makes every transposed copy as soon as it can, and the copies lie about until they are
used: those of a network's kernels from the start of a gradient until it comes back to their layer.
They are made to wait for the operand that comes last.

A window that is larger than its image, or of one pixel, is slow in every layout: both become matrix
products. And 3x3 windows have a form with fewer multiplications.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core.primitives import conv_general_dilated_p

from xsam_jax import _placement, _sums
from xsam_jax._xla import pointwise, small_maps, winograd

_LONG = 3072  # terms of a sum, which fit into a core's cache
_LARGE = 2**18  # elements of an array whose copy should not lie about

Product = Callable[[chex.Array, chex.Array], chex.Array]


def convolve(
    lhs: chex.Array, rhs: chex.Array, *, dimension_numbers: lax.ConvDimensionNumbers, **params: Any
) -> chex.Array:
    """Convolves: on CPU channels last, in parts, between transposes; elsewhere as it was."""
    batch, features, *space = dimension_numbers.lhs_spec
    out_features, in_features, *kernel_space = dimension_numbers.rhs_spec
    out_batch, out_channels, *out_space = dimension_numbers.out_spec
    n = len(space)
    nhwc, hwio = (0, n + 1, *range(1, n + 1)), (n + 1, n, *range(n))
    fast = lax.ConvDimensionNumbers(lhs_spec=nhwc, rhs_spec=hwio, out_spec=nhwc)
    bind = functools.partial(conv_general_dilated_p.bind, **params)
    original = functools.partial(bind, dimension_numbers=dimension_numbers)
    # Outside of `jax.jit` each operation is an entry computation; a loop would be compiled anew.
    if not _placement.compiling():
        return original(lhs, rhs)
    out = jax.eval_shape(original, lhs, rhs)
    floating = jnp.issubdtype(out.dtype, jnp.floating)
    # In a mesh images may lie on different devices.
    alone = _placement.on_no_mesh((lhs, rhs)) and _one_group(**params)
    dense = None  # a form as matrix products
    in_parts = alone
    if alone and floating:
        pixels = [
            [array.shape[axis] for axis in axes]
            for array, axes in ((lhs, space), (rhs, kernel_space), (out, out_space))
        ]
        channels = lhs.shape[features], rhs.shape[out_features]
        for form in (small_maps, winograd):
            dense = dense or form.product(pixels, lhs.shape[batch], *channels, **params)
        in_parts = dense is None  # the others divide their sums themselves, or have short ones
        dense = dense or pointwise.product(pixels, **params)
    if dimension_numbers == fast and dense is None:
        return original(lhs, rhs)

    def whole(lhs: chex.Array, rhs: chex.Array) -> chex.Array:
        return bind(lhs, rhs, dimension_numbers=fast)

    def summed(lhs: chex.Array, rhs: chex.Array) -> chex.Array:
        """Convolves in float32 at least, as XLA:CPU adds up; the caller rounds the sum."""
        if not floating:
            return whole(lhs, rhs)
        dtype = _sums.statistics_dtype(out)
        lhs, rhs = lhs.astype(dtype), rhs.astype(dtype)
        if dense is not None:
            return dense.multiply(lhs, rhs)
        return bind(lhs, rhs, dimension_numbers=fast, preferred_element_type=dtype)

    def in_layout(product: Product, lhs: chex.Array, rhs: chex.Array) -> chex.Array:
        lhs = lax.transpose(lhs, (batch, *space, features))
        rhs = lax.transpose(rhs, (*kernel_space, in_features, out_features))
        return product(lhs, rhs)

    def transposed(lhs: chex.Array, rhs: chex.Array) -> chex.Array:
        # Of a kernel's gradient, whose features are the images, the input is there first, and the
        # cotangent comes last; of an input's gradient the kernel is there first.
        if features < batch:
            lhs = _once_there(rhs, lhs)
        elif dimension_numbers != fast or (dense is not None and dense.spreads):
            rhs = _once_there(lhs, rhs)
        terms = math.prod(rhs.shape[axis] for axis in (in_features, *kernel_space))
        parts = _parts(terms, lhs.shape[features]) if in_parts else 1
        if parts > 1:
            pieces = _split(lhs, features, parts), _split(rhs, in_features, parts)
            result = _in_parts(functools.partial(in_layout, summed), *pieces)
        else:
            result = in_layout(whole if dense is None else summed, lhs, rhs)
        order = np.argsort((out_batch, *out_space, out_channels))
        return lax.transpose(result.astype(out.dtype), order)

    return lax.platform_dependent(lhs, rhs, cpu=transposed, default=original)


def _one_group(*, feature_group_count: int, batch_group_count: int, **_: Any) -> bool:
    return feature_group_count == batch_group_count == 1


def _parts(terms: int, features: int) -> int:
    """Chooses in how many parts to compute a convolution that sums so many terms.

    Those of a kernel's gradient are the images, its input's feature axis, times their pixels, its
    window. In parts that fit into the caches it takes a third to a fifth of the time.
    """
    parts = 1
    if isinstance(terms, int):  # not where the number of images is unknown
        while terms >= 2 * parts * _LONG and features % (2 * parts) == 0:
            parts *= 2
    return parts


def _once_there(last: chex.Array, array: chex.Array) -> chex.Array:
    """Makes an array wait: XLA:CPU does nothing with it before ``last`` is computed.

    It takes `lax.optimization_barrier` out before it orders a program's operations. This condition
    always holds, which only its last compiler finds, and drops it.
    """
    known = isinstance(last.size, int) and isinstance(array.size, int)
    # On a mesh one device would have the number of which the condition is.
    if not (known and array.size >= _LARGE and _placement.on_no_mesh((last, array))):
        return array
    first = last[(0,) * last.ndim]
    always = _placement.anywhere(jnp.logical_or(first == first, first != first))
    return jnp.where(always, array, jnp.zeros_like(array))


def _split(array: chex.Array, axis: int, parts: int) -> chex.Array:
    shape = *array.shape[:axis], parts, array.shape[axis] // parts, *array.shape[axis + 1 :]
    return jnp.moveaxis(array.reshape(shape), axis, 0)


def _in_parts(product: Product, lhs: chex.Array, rhs: chex.Array) -> chex.Array:
    """``product(lhs[0], rhs[0]) + product(lhs[1], rhs[1]) + ...``."""
    out = jax.eval_shape(product, lhs[0], rhs[0])
    total, _ = lax.scan(
        lambda total, pair: (total + product(*pair), None),
        jnp.zeros(out.shape, out.dtype),
        (lhs, rhs),
        unroll=2,  # one for each of two cores
    )
    return total
