"""channels_last: windows larger than their image are matrix products."""

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import xsam_jax
from tests.meshes import mesh_of
from tests.platforms import only_on_a_cpu

Convolve = Callable[[chex.Array, chex.Array], chex.Array]
Gradients = Callable[[chex.Array, chex.Array, chex.Array], Any]

LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def _layer(padding: Any = "SAME", strides: Any = None, **params: Any) -> Convolve:
    def convolve(x: chex.Array, kernel: chex.Array) -> chex.Array:
        n = x.ndim - 2
        return lax.conv_general_dilated(
            x, kernel, strides or (1,) * n, padding, dimension_numbers=LAYOUTS[n], **params
        )

    return convolve


def _draw(*shape: int, dtype: Any = jnp.float64) -> chex.Array:
    return jnp.asarray(np.random.default_rng(math.prod(shape)).normal(size=shape), dtype)


def _operands(
    convolve: Convolve, pixels: tuple[int, ...], window: tuple[int, ...], images: int, **draw: Any
) -> list[chex.Array]:
    """Draw images, a kernel and a cotangent."""
    x, kernel = _draw(images, *pixels, 3, **draw), _draw(*window, 3, 4, **draw)
    return [x, kernel, _draw(*jax.eval_shape(convolve, x, kernel).shape, **draw)]


def _all_three(convolve: Convolve) -> Gradients:
    """Compute a layer, its input's gradient and its kernel's gradient."""

    def gradients(x: chex.Array, kernel: chex.Array, cotangent: chex.Array) -> Any:
        out, pull = jax.vjp(convolve, x, kernel)
        return out, *pull(cotangent)

    return gradients


def _convolutions(fn: Callable[..., Any], *args: Any, platform: str = "cpu") -> int:
    lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=(platform,))
    text: str = lowered.as_text()
    return text.count("stablehlo.convolution")


SMALL: dict[str, tuple[Convolve, tuple[int, ...], tuple[int, ...], int]] = {
    # The layer, pixels, window, and how many of the three convolutions remain.
    "one pixel": (_layer(), (1, 1), (3, 3), 0),
    "3x3 on 2x2": (_layer(), (2, 2), (3, 3), 0),
    "5x5 on 2x2": (_layer(), (2, 2), (5, 5), 0),
    "5x5 on 4x4": (_layer(), (4, 4), (5, 5), 1),  # of the kernel's gradient, which is fast
    "7x5 on 4x3": (_layer(), (4, 3), (7, 5), 1),
    "3x3 on 1x4": (_layer(), (1, 4), (3, 3), 0),
    "strided, the window on all": (_layer(strides=(2, 1)), (3, 2), (5, 3), 1),
    "strided, the input's gradient": (_layer("SAME", (2, 2)), (4, 4), (3, 3), 2),
    "uneven padding": (_layer([(0, 2), (3, 1)]), (2, 2), (3, 4), 0),
    "cut padding": (_layer([(2, -1), (1, 1)]), (3, 2), (3, 3), 1),
    "dilated window": (_layer([(2, 2), (2, 2)], rhs_dilation=(2, 2)), (2, 2), (3, 3), 0),
    "dilated image": (_layer([(1, 2), (1, 2)], lhs_dilation=(2, 2)), (2, 2), (3, 3), 1),
    "the padding alone": (_layer([(3, 0), (3, 0)], (4, 4)), (1, 1), (3, 3), 3),
    "of one dimension": (_layer(), (3,), (5,), 0),
    "of three": (_layer(), (2, 1, 2), (3, 3, 3), 0),
}


@pytest.mark.parametrize("images", [1, 40])
@pytest.mark.parametrize("case", SMALL)
def test_the_same_numbers_without_a_convolution(case: str, images: int) -> None:
    convolve, pixels, window, remaining = SMALL[case]
    args = _operands(convolve, pixels, window, images)
    gradients = _all_three(convolve)
    expected = gradients(*args)
    fast = xsam_jax.channels_last(gradients)
    chex.assert_trees_all_close(jax.jit(fast)(*args), expected, rtol=1e-11, atol=1e-11)
    # Of few images the products of a kernel's gradient would be more than the numbers of them.
    assert images == 1 or _convolutions(fast, *args) == remaining
    assert _convolutions(fast, *args, platform="cuda") == _convolutions(gradients, *args) == 3


def test_a_window_as_large_as_its_image_stays_a_convolution() -> None:
    """And all smaller ones, in whatever layout; so do windows on maps of many pixels."""
    for pixels, window in (((3, 3), (3, 3)), ((2, 3), (3, 2)), ((16, 16), (17, 16))):
        args = _operands(_layer(), pixels, window, 5)
        assert _convolutions(xsam_jax.channels_last(_all_three(_layer())), *args) == 3
    channels_first: Convolve = lambda x, kernel: lax.conv(x, kernel, (1, 1), "SAME")
    for size, convolutions in ((2, 0), (3, 1)):
        x, kernel = _draw(5, 3, size, size), _draw(4, 3, 3, 3)
        fast = xsam_jax.channels_last(channels_first)
        assert _convolutions(fast, x, kernel) == convolutions
        np.testing.assert_allclose(jax.jit(fast)(x, kernel), channels_first(x, kernel), rtol=1e-11)


def test_in_loops_and_branches() -> None:
    layer = _layer()
    x, kernel = _draw(40, 2, 2, 3), _draw(3, 3, 3, 3)

    def loss(kernel: chex.Array) -> chex.Array:
        deep, _ = lax.scan(lambda y, _: (jnp.tanh(layer(y, kernel)), None), x, length=3)
        return jnp.sum(lax.cond(jnp.sum(x) < 1e9, lambda y: layer(y, kernel), jnp.sin, deep))

    fast = xsam_jax.channels_last(jax.grad(loss))
    np.testing.assert_allclose(jax.jit(fast)(kernel), jax.grad(loss)(kernel), rtol=1e-9)
    assert _convolutions(fast, kernel) == 0


@pytest.mark.parametrize("case", ["one pixel", "3x3 on 2x2", "5x5 on 4x4", "dilated image"])
@pytest.mark.parametrize("images", [2, 40])
def test_derivatives_and_batches(case: str, images: int) -> None:
    """Of what was rewritten, in forward and in reverse mode, and under `jax.vmap`."""
    convolve, pixels, window, _ = SMALL[case]
    args = _operands(convolve, pixels, window, images)
    gradients = _all_three(convolve)
    tangents = [jnp.flip(array) for array in args]
    batched = [jnp.stack([array, jnp.flip(array)]) for array in args]

    def of(fn: Gradients) -> Any:
        reverse = jax.vjp(fn, *args)[1](gradients(*tangents))
        shared = jax.vmap(fn, (0, None, 0))(batched[0], args[1], batched[2])
        return jax.jvp(fn, args, tangents), reverse, jax.vmap(fn)(*batched), shared

    found = jax.jit(lambda: of(xsam_jax.channels_last(gradients)))()
    chex.assert_trees_all_close(found, of(gradients), rtol=1e-10, atol=1e-10)


def test_a_product_with_the_hessian() -> None:
    x, kernels = _draw(40, 2, 2, 3), [_draw(3, 3, 3, 4), _draw(3, 3, 4, 4)]

    def loss(kernels: list[chex.Array]) -> chex.Array:
        return jnp.sum(jnp.tanh(_layer()(jnp.tanh(_layer()(x, kernels[0])), kernels[1])) ** 2)

    gradient = jax.grad(loss)
    product = jax.jit(lambda v: xsam_jax.curvature.hvp(gradient, kernels, v))
    expected = jax.jvp(gradient, (kernels,), (kernels,))[1]
    chex.assert_trees_all_close(product(kernels), expected, rtol=1e-9, atol=1e-10)
    assert _convolutions(product, kernels) == 0


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_few_digits_are_rounded_once(dtype: Any) -> None:
    args = _operands(_layer(), (2, 2), (3, 3), 200, dtype=dtype)
    exact = _all_three(_layer())(*(array.astype(jnp.float64) for array in args))
    found = jax.jit(xsam_jax.channels_last(_all_three(_layer())))(*args)
    half = {jnp.float16: 2.0**-11, jnp.bfloat16: 2.0**-8}[dtype]
    for array, reference in zip(found, exact, strict=True):
        assert array.dtype == dtype
        numbers = array.astype(jnp.float64)
        np.testing.assert_allclose(numbers, reference, rtol=1.01 * half, atol=1e-4)


@pytest.mark.parametrize(("images", "remaining"), [(7, 1), (8, 0)])
def test_a_kernel_s_gradient_of_few_images_stays_a_convolution(images: int, remaining: int) -> None:
    """16 products for each two channels, or 36 numbers of windows for a channel and an image."""
    args = [_draw(images, 2, 2, 16), _draw(3, 3, 16, 17), _draw(images, 2, 2, 17)]
    fast = xsam_jax.channels_last(_all_three(_layer()))
    assert _convolutions(fast, *args) == remaining
    chex.assert_trees_all_close(jax.jit(fast)(*args), _all_three(_layer())(*args), rtol=1e-10)


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
        fn = lambda *args, place=place: _all_three(_layer())(*args)[place]
        assert planned(xsam_jax.channels_last(fn)) <= planned(fn) + patches


def test_what_is_left_as_it_was() -> None:
    """Groups, meshes, integers, and an unknown number of images."""
    x, kernel = _draw(8, 2, 2, 4), _draw(3, 3, 2, 4)
    grouped = xsam_jax.channels_last(_layer(feature_group_count=2))
    assert _convolutions(grouped, x, kernel) == 1
    np.testing.assert_allclose(
        jax.jit(grouped)(x, kernel), _layer(feature_group_count=2)(x, kernel), rtol=1e-11
    )
    fast, kernel = xsam_jax.channels_last(_layer()), _draw(3, 3, 4, 4)
    assert _convolutions(fast, x, kernel) == 0
    with jax.set_mesh(mesh_of(2)):
        assert _convolutions(fast, x, kernel) == 1
    whole = [jnp.round(9 * array).astype(jnp.int32) for array in (x, kernel)]
    chex.assert_trees_all_equal(jax.jit(fast)(*whole), _layer()(*whole))
    (symbolic,) = export.symbolic_args_specs((x,), ("n, _, _, _",))
    exported = export.export(jax.jit(fast), platforms=["cpu"])(symbolic, kernel)
    np.testing.assert_allclose(exported.call(x, kernel), _layer()(x, kernel), rtol=1e-11)
    assert fast(x[:0], kernel).shape == jax.jit(fast)(x[:0], kernel).shape == (0, 2, 2, 4)
