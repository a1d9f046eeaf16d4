"""Convolutions whose window is larger than the image, as one matrix product.

XLA lets image and kernel change places where the kernel has more pixels, and with that XLA:CPU's
fast convolution gives up: 3x3 windows on 2x2 pixels take ten times as long as a matrix product and
more (docs/cost.md). Such a layer is almost dense. A pixel of the output is a sum over pairs of a
pixel of the image and a tap of the kernel, and of these three each two determine the third: so the
product may run over any two of them.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import numpy as np
from jax import lax

_PIXELS = 256  # of the largest map: what is looked up grows with their square

Table = np.ndarray[tuple[int, int], Any]


class Product(NamedTuple):
    """A convolution of NHWC and HWIO, and whether it makes a larger copy of the kernel."""

    multiply: Callable[[chex.Array, chex.Array], chex.Array]
    spreads: bool


def product(
    shapes: Sequence[Sequence[int]],
    images: int,
    inputs: int,
    outputs: int,
    *,
    precision: Any,
    **geometry: Any,
) -> Product | None:
    """Makes the matrix product of a convolution, or returns None where it would not be faster.

    The window is larger than the image in a layer itself and in its input's gradient. In its
    kernel's gradient the window is the output's cotangent, and as large as the image.

    Args:
      shapes: of image, kernel and output; pixels in every dimension.
      images: how many.
      inputs: channels of an image.
      outputs: channels of the result.
      precision: of the product.
      geometry: the other parameters of the convolution's equation.
    """
    sizes = (*itertools.chain(*shapes), images, inputs, outputs)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    image, kernel, output = map(math.prod, shapes)
    if kernel < image or max(image, kernel, output) > _PIXELS:
        return None
    pixels = _pixels(shapes, **geometry)
    taps = np.flatnonzero((pixels >= 0).any(0))  # the others meet the padding alone
    if len(taps) == 0:
        return None
    pixels = pixels[:, taps]
    windows = images * output * len(taps) * inputs
    if kernel > image:
        spread = image * output * inputs * outputs < windows
        form = _of_the_spread_kernel if spread else _of_windows
    else:
        products, result = images * image * kernel * outputs, images * output * outputs
        # Else it takes as long as the convolution, or more memory than the windows.
        if image >= output or products > 2 * result or products > max(result, windows):
            return None
        form = _added_up

    def multiply(lhs: chex.Array, rhs: chex.Array) -> chex.Array:
        lhs = lhs.reshape(images, image, inputs)
        rhs = rhs.reshape(kernel, inputs, outputs)
        rhs = rhs if len(taps) == kernel else rhs[taps]
        dot = functools.partial(lax.dot_general, precision=precision)
        return form(dot, lhs, rhs, pixels).reshape(images, *shapes[-1], outputs)

    return Product(multiply, form is _of_the_spread_kernel)


def _of_windows(dot: Any, lhs: chex.Array, rhs: chex.Array, pixels: Table) -> chex.Array:
    """Multiplies over outputs and taps: the pixels of each output's window with the kernel."""
    windows = _look_up(lhs, 1, pixels)  # [images, output, taps, inputs]
    return dot(windows, rhs, (((2, 3), (0, 1)), ((), ())))


def _of_the_spread_kernel(dot: Any, lhs: chex.Array, rhs: chex.Array, pixels: Table) -> chex.Array:
    """Multiplies over pixels and outputs: the tap between each pair is a dense layer's weight."""
    spread = _look_up(rhs, 0, _taps(pixels, lhs.shape[1]))  # [image, output, inputs, outputs]
    return dot(lhs, spread, (((1, 2), (0, 2)), ((), ())))


def _added_up(dot: Any, lhs: chex.Array, rhs: chex.Array, pixels: Table) -> chex.Array:
    """Multiplies over pixels and taps, and adds each product to its output."""
    products = dot(lhs, rhs, (((2,), (1,)), ((), ())))  # [images, image, taps, outputs]
    taps = _taps(pixels, lhs.shape[1])
    terms = (_look_up(products[:, pixel], 1, taps[pixel]) for pixel in range(len(taps)))
    return functools.reduce(operator.add, terms)


def _look_up(array: chex.Array, axis: int, index: Table) -> chex.Array:
    """``array[index]`` along an axis, and zeros where the index is -1."""
    index = np.where(index < 0, array.shape[axis], index).astype(np.int32)
    return array.at[(*(slice(None),) * axis, index)].get(mode="fill", fill_value=0)


def _pixels(
    shapes: Sequence[Sequence[int]],
    *,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    **others: Any,
) -> Table:
    """The image's pixel at each tap of each output's window, or -1; [output, kernel]."""
    del others
    pixels = np.zeros((1, 1), int)
    sizes = zip(*shapes, strict=True)
    steps = zip(window_strides, padding, lhs_dilation, rhs_dilation, strict=True)
    for (image, kernel, output), (stride, (low, _), gap, kernel_gap) in zip(
        sizes, steps, strict=True
    ):
        at = np.arange(output)[:, None] * stride - low + np.arange(kernel) * kernel_gap
        at, between = np.divmod(at, gap)
        inside = (at >= 0) & (at < image) & (between == 0)
        # One dimension more, of outputs and of taps.
        known = (pixels[:, None, :, None] >= 0) & inside[None, :, None, :]
        both = pixels[:, None, :, None] * image + at[None, :, None, :]
        pixels = np.where(known, both, -1).reshape(len(pixels) * output, -1)
    return pixels


def _taps(pixels: Table, image: int) -> Table:
    """The tap at which a pixel lies in the window of an output, or -1; [image, output]."""
    output, tap = np.nonzero(pixels >= 0)
    taps = np.full((image, len(pixels)), -1)
    taps[pixels[output, tap], output] = tap
    return taps
