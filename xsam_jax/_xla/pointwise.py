"""Convolutions whose window or output is one pixel, as one matrix product.

A 1x1 window multiplies the channels of each pixel. Its kernel's gradient is a convolution too: its
window is the output's cotangent, and its output the one pixel of the kernel. XLA:CPU computes both
as sums over windows, and the second, with a stride, at a tenth of a matrix product's speed
(docs/cost.md).
"""

import math
from collections.abc import Sequence
from typing import Any

import chex
from jax import lax

from xsam_jax._xla.small_maps import Product


def product(
    shapes: Sequence[Sequence[int]],
    *,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    precision: Any,
    **_: Any,
) -> Product | None:
    """The matrix product of such a convolution of NHWC and HWIO, or None for any other.

    Args:
      shapes: of image, kernel and output; pixels in every dimension.
      window_strides: pixels between windows.
      padding: before and behind the image, in every dimension.
      lhs_dilation: pixels from one of the image's to the next.
      rhs_dilation: pixels from one of the window's to the next.
      precision: of the product.
    """
    image, kernel, output = shapes
    if not all(isinstance(size, int) and size > 0 for size in (*image, *kernel, *output)):
        return None
    dense = set(lhs_dilation) == {1}
    n = len(image)

    def dot(lhs: chex.Array, rhs: chex.Array, axes: tuple[Any, Any]) -> chex.Array:
        return lax.dot_general(lhs, rhs, (axes, ((), ())), precision=precision)

    def padded(lhs: chex.Array) -> chex.Array:
        """The image between its padding, and zeros between its pixels."""
        space = [(*pair, gap - 1) for pair, gap in zip(padding, lhs_dilation, strict=True)]
        return lax.pad(lhs, lhs.dtype.type(0), [(0, 0, 0), *space, (0, 0, 0)])

    def every(lhs: chex.Array, steps: Sequence[int], count: Sequence[int]) -> chex.Array:
        """Every so many pixels of the padded image."""
        ends = [(number - 1) * step + 1 for number, step in zip(count, steps, strict=True)]
        limits = (lhs.shape[0], *ends, lhs.shape[-1])
        return lax.slice(padded(lhs), (0,) * (n + 2), limits, (1, *steps, 1))

    def of_pixels(lhs: chex.Array, rhs: chex.Array) -> chex.Array:
        channels = rhs.reshape(rhs.shape[-2:])
        if dense:
            return dot(every(lhs, window_strides, output), channels, ((n + 1,), (0,)))
        return padded(dot(lhs, channels, ((n + 1,), (0,))))

    def of_one_output(lhs: chex.Array, rhs: chex.Array) -> chex.Array:
        pixels = tuple(range(n))
        lhs = every(lhs, rhs_dilation, kernel)
        result = dot(lhs, rhs, ((*(1 + axis for axis in pixels), n + 1), (*pixels, n)))
        return result.reshape(result.shape[0], *output, result.shape[-1])

    if math.prod(kernel) == 1 and (dense or set(window_strides) == {1}):
        return Product(of_pixels, spreads=False)
    if math.prod(output) == 1 and dense:
        return Product(of_one_output, spreads=False)
    return None
