"""3x3 convolutions in Winograd's form, with less than half of the multiplications.

Four pixels d in a row and three taps of a kernel make two outputs, of six products. Winograd's form
makes them of four: ``A' ((G kernel) * (B' d))``, in two dimensions of 16 in place of 36 (Lavin and
Gray 2016, "Fast algorithms for convolutional neural networks", F(2x2, 3x3)). Each of the 16 is a
matrix product over the channels of all tiles. The kernel's gradient is the transpose of the same
form. The matrices have zeros, ones and halves, so that it rounds little more than a convolution.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xsam_jax._xla.small_maps import Product

# Of B' each row is the difference or the sum of two pixels: d0-d2, d1+d2, d2-d1, d1-d3.
_PIXEL, _OTHER, _SIGN = np.array([[0, 1, 2, 1], [2, 2, 1, 3], [-1, 1, -1, -1]])
_KERNEL = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2  # G
_OUTPUT = np.array([[1, 0], [1, 1], [1, -1], [0, -1]])  # A

_ROWS = 128  # tiles of which a matrix product is fast
_NUMBERS = 2**20  # of tiles' products, which should stay in the caches


class _Tiles(NamedTuple):
    """How many tiles an image has in each dimension, and its first padding."""

    height: int
    width: int
    low: tuple[int, int]

    @property
    def number(self) -> int:
        return self.height * self.width


def product(
    shapes: Sequence[Sequence[int]],
    images: int,
    inputs: int,
    outputs: int,
    *,
    precision: Any,
    padding: Sequence[tuple[int, int]],
    **geometry: Any,
) -> Product | None:
    """The convolution in Winograd's form, or None where it has none or would not be faster.

    A kernel's gradient is a convolution whose window is the output's cotangent, whose output is the
    kernel, and where channels and images have changed places.

    Args:
      shapes: of image, kernel and output; pixels in every dimension.
      images: how many.
      inputs: channels of an image.
      outputs: channels of the result.
      precision: of the products.
      padding: before and behind the image, in every dimension.
      geometry: the other parameters of the convolution's equation.
    """
    _, kernel, output = map(tuple, shapes)
    steps = (geometry[name] for name in ("window_strides", "lhs_dilation", "rhs_dilation"))
    plain = set(itertools.chain(*steps)) == {1}
    if not (plain and (3, 3) in (kernel, output)):
        return None
    of_layer = kernel == (3, 3)
    height, width = output if of_layer else kernel
    summed = (images, inputs) if of_layer else (inputs, images)
    if not all(isinstance(size, int) and size > 0 for size in (height, width, *summed, outputs)):
        return None
    (top, _), (left, _) = padding
    tiles = _Tiles(-(-height // 2), -(-width // 2), (top, left))
    number, channels = summed
    saved = 16 * tiles.number <= 0.6 * 9 * height * width
    # What is added for each tile, against what is multiplied.
    narrow = channels * outputs < (20 if of_layer else 16) * (channels + outputs)
    if not saved or narrow or number * tiles.number < _ROWS:
        return None
    size = _images_of_a_part(number, tiles.number, max(channels, outputs))
    dot = functools.partial(lax.dot_general, precision=precision)
    if not of_layer:
        return Product(functools.partial(_gradient, dot, tiles, size), spreads=False)
    return Product(functools.partial(_layer, dot, tiles, (height, width), size), spreads=True)


def _images_of_a_part(images: int, tiles: int, channels: int) -> int:
    """How many images to take at once: as many as the caches hold, but enough for a product."""
    divisors = [n for n in range(1, images + 1) if images % n == 0]
    enough = [n for n in divisors if n * tiles >= _ROWS]
    most = max(2 * _ROWS, _NUMBERS // (16 * channels))
    fitting = [n for n in enough if n * tiles <= most]
    return (fitting or enough[:1])[-1]


def _layer(
    dot: Any,
    tiles: _Tiles,
    pixels: tuple[int, int],
    size: int,
    lhs: chex.Array,
    rhs: chex.Array,
) -> chex.Array:
    """A convolution of NHWC and HWIO."""
    *_, inputs, outputs = rhs.shape
    both = np.kron(_KERNEL, _KERNEL).astype(rhs.dtype)
    kernel = dot(both, rhs.reshape(9, -1), (((1,), (0,)), ((), ()))).reshape(16, inputs, outputs)

    def part(lhs: chex.Array) -> chex.Array:
        products = dot(_transformed(lhs, tiles), kernel, (((2,), (1,)), ((0,), (0,))))
        products = products.reshape(4, 4, -1, tiles.height, tiles.width, outputs)
        sums = _added(_added(products, 0), 1).transpose(2, 3, 0, 4, 1, 5)
        sums = sums.reshape(-1, 2 * tiles.height, 2 * tiles.width, outputs)
        return sums[:, : pixels[0], : pixels[1]]

    if size == len(lhs):
        return part(lhs)
    parts = lhs.reshape(-1, size, *lhs.shape[1:])
    # What a loop writes over XLA:CPU makes at the program's start, unless that needs the input.
    shape = len(parts), size, *pixels, outputs
    start = jnp.broadcast_to(lhs[0, 0, 0, 0], shape)
    written = functools.partial(lax.dynamic_update_index_in_dim, axis=0)
    out, _ = lax.scan(
        lambda out, one: (written(out, part(one[1]), one[0]), None),
        start,
        (jnp.arange(len(parts)), parts),
    )
    return out.reshape(len(lhs), *pixels, outputs)


def _gradient(dot: Any, tiles: _Tiles, size: int, lhs: chex.Array, rhs: chex.Array) -> chex.Array:
    """A kernel's gradient, of the input as CHWN and the output's cotangent as HWNO."""
    lhs, rhs = lhs.transpose(3, 1, 2, 0), rhs.transpose(2, 0, 1, 3)

    def part(lhs: chex.Array, rhs: chex.Array) -> chex.Array:
        return dot(_transformed(lhs, tiles), _spread(rhs, tiles), (((1,), (1,)), ((0,), (0,))))

    if size == len(lhs):
        products = part(lhs, rhs)
    else:
        parts = [array.reshape(-1, size, *array.shape[1:]) for array in (lhs, rhs)]
        out = jax.eval_shape(part, *(array[0] for array in parts))
        zeros = jnp.zeros(out.shape, out.dtype)
        products, _ = lax.scan(lambda sum, pair: (sum + part(*pair), None), zeros, parts)
    both = np.kron(_KERNEL, _KERNEL).astype(rhs.dtype)
    kernel = dot(both, products.reshape(16, -1), (((0,), (0,)), ((), ())))
    return kernel.reshape(3, 3, *products.shape[1:]).transpose(2, 0, 1, 3)


def _transformed(images: chex.Array, tiles: _Tiles) -> chex.Array:
    """``B' d B`` of all tiles of 4x4 pixels; [16, tiles, channels]."""
    sizes = tiles.height, tiles.width
    around = [
        (low, 2 * size + 2 - low - pixels, 0)
        for low, size, pixels in zip(tiles.low, sizes, images.shape[1:3], strict=True)
    ]
    zero = jnp.zeros((), images.dtype)
    images = lax.pad(images, zero, [(0, 0, 0), *around, (0, 0, 0)])
    number, _, _, channels = images.shape
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(2, 5), collapsed_slice_dims=(1, 2), start_index_map=(1, 2)
    )

    def looked_up(row: Any, column: Any) -> chex.Array:
        """Pixels of each of the 16, [4, 4, images, height, width, channels]."""
        at = [
            np.add.outer(place, 2 * np.arange(size))
            for place, size in zip((row, column), sizes, strict=True)
        ]
        index = np.broadcast_arrays(at[0][:, None, :, None], at[1][None, :, None, :])
        return lax.gather(
            images,
            jnp.asarray(np.stack(index, -1), jnp.int32),
            numbers,
            (number, 1, 1, channels),
            mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
        )

    sign = _SIGN.astype(images.dtype)
    down, right = sign.reshape(4, 1, 1, 1, 1, 1), sign.reshape(1, 4, 1, 1, 1, 1)
    result = looked_up(_PIXEL, _PIXEL) + right * looked_up(_PIXEL, _OTHER)
    result += down * looked_up(_OTHER, _PIXEL) + down * right * looked_up(_OTHER, _OTHER)
    return result.reshape(16, -1, channels)


def _spread(cotangents: chex.Array, tiles: _Tiles) -> chex.Array:
    """``A c A'`` of all tiles of 2x2 pixels; [16, tiles, channels]."""
    number, height, width, channels = cotangents.shape
    rest = (0, 2 * tiles.height - height), (0, 2 * tiles.width - width)
    cotangents = jnp.pad(cotangents, ((0, 0), *rest, (0, 0)))
    cotangents = cotangents.reshape(number, tiles.height, 2, tiles.width, 2, channels)
    result = jnp.zeros((), cotangents.dtype)
    for row, column in itertools.product(range(2), range(2)):
        factors = np.outer(_OUTPUT[:, row], _OUTPUT[:, column]).reshape(4, 4, 1, 1, 1, 1)
        result += factors.astype(cotangents.dtype) * cotangents[:, :, row, :, column][None, None]
    return result.reshape(16, -1, channels)


def _added(products: chex.Array, axis: int) -> chex.Array:
    """``A'`` along an axis: of four numbers m0+m1+m2 and m1-m2-m3."""
    shape = [1] * products.ndim
    shape[axis] = 2
    sign = np.array([1, -1], products.dtype).reshape(shape)
    first, second, third = (lax.slice_in_dim(products, k, k + 2, axis=axis) for k in range(3))
    return first + sign * second + sign * third
