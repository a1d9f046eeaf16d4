"""channels_last: windows larger than their image are matrix products."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import xsam_jax
from tests.platforms import only_on_a_cpu
from tests.xla.convolutions import (
    Convolve,
    all_derivatives,
    all_three,
    check_only_plain_floats_change,
    count_convolutions,
    draw,
    layer,
    operands,
)


def _operands(
    convolve: Convolve, pixels: tuple[int, ...], window: tuple[int, ...], images: int, **draw: Any
) -> list[chex.Array]:
    return operands(convolve, (images, *pixels, 3), window, 4, **draw)


SMALL: dict[str, tuple[Convolve, tuple[int, ...], tuple[int, ...], int]] = {
    # The layer, pixels, window, and how many of the three convolutions remain.
    "one pixel": (layer(), (1, 1), (3, 3), 0),
    "3x3 on 2x2": (layer(), (2, 2), (3, 3), 0),
    "5x5 on 2x2": (layer(), (2, 2), (5, 5), 0),
    "5x5 on 4x4": (layer(), (4, 4), (5, 5), 1),  # of the kernel's gradient, which is fast
    "7x5 on 4x3": (layer(), (4, 3), (7, 5), 1),
    "3x3 on 1x4": (layer(), (1, 4), (3, 3), 0),
    "strided, the window on all": (layer(strides=(2, 1)), (3, 2), (5, 3), 1),
    "strided, the input's gradient": (layer("SAME", (2, 2)), (4, 4), (3, 3), 2),
    "uneven padding": (layer([(0, 2), (3, 1)]), (2, 2), (3, 4), 0),
    "cut padding": (layer([(2, -1), (1, 1)]), (3, 2), (3, 3), 1),
    "dilated window": (layer([(2, 2), (2, 2)], rhs_dilation=(2, 2)), (2, 2), (3, 3), 0),
    "dilated image": (layer([(1, 2), (1, 2)], lhs_dilation=(2, 2)), (2, 2), (3, 3), 1),
    "the padding alone": (layer([(3, 0), (3, 0)], (4, 4)), (1, 1), (3, 3), 1),
    "of one dimension": (layer(), (3,), (5,), 0),
    "of three": (layer(), (2, 1, 2), (3, 3, 3), 0),
}


@pytest.mark.parametrize("images", [1, 40])
@pytest.mark.parametrize("case", SMALL)
def test_the_same_numbers_without_a_convolution(case: str, images: int) -> None:
    convolve, pixels, window, remaining = SMALL[case]
    args = _operands(convolve, pixels, window, images)
    gradients = all_three(convolve)
    expected = gradients(*args)
    fast = xsam_jax.channels_last(gradients)
    chex.assert_trees_all_close(jax.jit(fast)(*args), expected, rtol=1e-11, atol=1e-11)
    # Of few images the products of a kernel's gradient would be more than the numbers of them.
    assert images == 1 or count_convolutions(fast, *args) == remaining
    assert (
        count_convolutions(fast, *args, platform="cuda")
        == count_convolutions(gradients, *args)
        == 3
    )


def test_a_window_as_large_as_its_image_stays_a_convolution() -> None:
    """And all smaller ones, in whatever layout; so do windows on maps of many pixels."""
    for pixels, window in (((3, 3), (3, 3)), ((2, 3), (3, 2)), ((16, 16), (17, 16))):
        args = _operands(layer(), pixels, window, 5)
        assert count_convolutions(xsam_jax.channels_last(all_three(layer())), *args) == 3
    channels_first: Convolve = lambda x, kernel: lax.conv(x, kernel, (1, 1), "SAME")
    for size, convolutions in ((2, 0), (3, 1)):
        x, kernel = draw(5, 3, size, size), draw(4, 3, 3, 3)
        fast = xsam_jax.channels_last(channels_first)
        assert count_convolutions(fast, x, kernel) == convolutions
        np.testing.assert_allclose(jax.jit(fast)(x, kernel), channels_first(x, kernel), rtol=1e-11)


def test_in_loops_and_branches() -> None:
    x, kernel = draw(40, 2, 2, 3), draw(3, 3, 3, 3)

    def loss(kernel: chex.Array) -> chex.Array:
        deep, _ = lax.scan(lambda y, _: (jnp.tanh(layer()(y, kernel)), None), x, length=3)
        return jnp.sum(lax.cond(jnp.sum(x) < 1e9, lambda y: layer()(y, kernel), jnp.sin, deep))

    fast = xsam_jax.channels_last(jax.grad(loss))
    np.testing.assert_allclose(jax.jit(fast)(kernel), jax.grad(loss)(kernel), rtol=1e-9)
    assert count_convolutions(fast, kernel) == 0


@pytest.mark.parametrize("case", ["one pixel", "3x3 on 2x2", "5x5 on 4x4", "dilated image"])
@pytest.mark.parametrize("images", [2, 40])
def test_derivatives_and_batches(case: str, images: int) -> None:
    """Of what was rewritten, in forward and in reverse mode, and under `jax.vmap`."""
    convolve, pixels, window, _ = SMALL[case]
    args = _operands(convolve, pixels, window, images)
    gradients = all_three(convolve)
    found = jax.jit(lambda: all_derivatives(xsam_jax.channels_last(gradients), args))()
    chex.assert_trees_all_close(found, all_derivatives(gradients, args), rtol=1e-10, atol=1e-10)


def test_a_product_with_the_hessian() -> None:
    x, kernels = draw(40, 2, 2, 3), [draw(3, 3, 3, 4), draw(3, 3, 4, 4)]

    def loss(kernels: list[chex.Array]) -> chex.Array:
        return jnp.sum(jnp.tanh(layer()(jnp.tanh(layer()(x, kernels[0])), kernels[1])) ** 2)

    gradient = jax.grad(loss)
    product = jax.jit(lambda v: xsam_jax.curvature.hvp(gradient, kernels, v))
    expected = jax.jvp(gradient, (kernels,), (kernels,))[1]
    chex.assert_trees_all_close(product(kernels), expected, rtol=1e-9, atol=1e-10)
    assert count_convolutions(product, kernels) == 0


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_few_digits_are_rounded_once(dtype: Any) -> None:
    args = _operands(layer(), (2, 2), (3, 3), 200, dtype=dtype)
    exact = all_three(layer())(*(array.astype(jnp.float64) for array in args))
    found = jax.jit(xsam_jax.channels_last(all_three(layer())))(*args)
    half = {jnp.float16: 2.0**-11, jnp.bfloat16: 2.0**-8}[dtype]
    for array, reference in zip(found, exact, strict=True):
        assert array.dtype == dtype
        numbers = array.astype(jnp.float64)
        np.testing.assert_allclose(numbers, reference, rtol=1.01 * half, atol=1e-4)


@pytest.mark.parametrize(("images", "remaining"), [(7, 1), (8, 0)])
def test_a_kernel_s_gradient_of_few_images_stays_a_convolution(images: int, remaining: int) -> None:
    """16 products for each two channels, or 36 numbers of windows for a channel and an image."""
    args = [draw(images, 2, 2, 16), draw(3, 3, 16, 17), draw(images, 2, 2, 17)]
    fast = xsam_jax.channels_last(all_three(layer()))
    assert count_convolutions(fast, *args) == remaining
    chex.assert_trees_all_close(jax.jit(fast)(*args), all_three(layer())(*args), rtol=1e-10)


@only_on_a_cpu
@pytest.mark.parametrize(("pixels", "window"), [(1, 3), (2, 3), (4, 5)])
@pytest.mark.parametrize("images", [8, 256])
def test_memory_of_the_patches(pixels: int, window: int, images: int) -> None:
    """Beside what they need as convolutions: a layer, its input's gradient and its kernel's."""
    x, kernel = jnp.ones((images, pixels, pixels, 64)), jnp.ones((window, window, 64, 64))
    cotangent = jnp.ones_like(x)
    patches = x.size * window**2 * x.dtype.itemsize

    def planned(fn: Callable[..., Any]) -> int:
        compiled: Any = jax.jit(fn).lower(x, kernel, cotangent).compile()
        size: int = compiled.memory_analysis().temp_size_in_bytes
        return size

    for place in range(3):
        fn = lambda *args, place=place: all_three(layer())(*args)[place]
        assert planned(xsam_jax.channels_last(fn)) <= planned(fn) + patches


def test_what_is_left_as_it_was() -> None:
    """Groups, meshes, integers, and an unknown number of images."""
    x, kernel = draw(8, 2, 2, 4), draw(3, 3, 2, 4)
    grouped = xsam_jax.channels_last(layer(feature_group_count=2))
    assert count_convolutions(grouped, x, kernel) == 1
    np.testing.assert_allclose(
        jax.jit(grouped)(x, kernel), layer(feature_group_count=2)(x, kernel), rtol=1e-11
    )
    check_only_plain_floats_change(layer(), x, draw(3, 3, 4, 4))
