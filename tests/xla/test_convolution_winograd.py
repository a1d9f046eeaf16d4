"""channels_last: 3x3 convolutions of stride one have Winograd's form."""

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
    layer,
    operands,
)

Shape = tuple[int, int, int, int]


def _operands(
    convolve: Convolve, images: Shape, outputs: int = 64, dtype: Any = jnp.float64
) -> list[chex.Array]:
    return operands(convolve, images, (3, 3), outputs, dtype)


FAST = xsam_jax.channels_last(all_three(layer()))


@pytest.mark.parametrize(
    ("padding", "images"),
    [
        ("SAME", (8, 8, 8, 64)),
        ("SAME", (40, 7, 8, 66)),
        ("SAME", (17, 8, 8, 64)),  # of a number of images that cannot be divided
        ("SAME", (24, 16, 16, 64)),  # in parts
        ("VALID", (32, 8, 10, 64)),
        ([(0, 1), (2, 1)], (8, 13, 15, 64)),
        ([(-1, 2), (1, 0)], (16, 9, 9, 64)),
    ],
)
def test_the_same_numbers_without_a_convolution(padding: Any, images: Shape) -> None:
    gradients = all_three(layer(padding))
    args = _operands(layer(padding), images)
    fast, expected = xsam_jax.channels_last(gradients), gradients(*args)
    chex.assert_trees_all_close(jax.jit(fast)(*args), expected, rtol=1e-10, atol=1e-10)
    assert count_convolutions(fast, *args) == 0
    assert (
        count_convolutions(fast, *args, platform="cuda")
        == count_convolutions(gradients, *args)
        == 3
    )


def test_channels_first() -> None:
    x, kernel, cotangent = _operands(layer(), (8, 8, 8, 64))
    first: Convolve = lambda x, kernel: lax.conv(x, kernel, (1, 1), "SAME")
    args = x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), cotangent.transpose(0, 3, 1, 2)
    fast = xsam_jax.channels_last(all_three(first))
    expected = all_three(first)(*args)
    chex.assert_trees_all_close(jax.jit(fast)(*args), expected, rtol=1e-10, atol=1e-10)
    assert count_convolutions(fast, *args) == 0


@pytest.mark.parametrize(
    ("convolve", "images", "outputs", "window", "remaining"),
    [
        (layer(strides=(2, 1)), (16, 16, 16, 64), 64, 3, 3),
        (layer(rhs_dilation=(2, 2)), (16, 16, 16, 64), 64, 3, 3),
        (layer(feature_group_count=2), (16, 16, 16, 128), 64, 3, 3),
        (layer(), (16, 16, 16, 64), 64, 5, 3),
        (layer(), (16, 16, 16, 64), 64, 1, 0),
        (layer(), (32, 5, 5, 64), 64, 3, 3),  # nine tiles in the place of 6.25
        (layer(), (7, 8, 8, 64), 64, 3, 3),  # 112 tiles
        (layer(), (16, 16, 16, 16), 32, 3, 3),
        (layer(), (16, 16, 16, 32), 32, 3, 2),  # all but the kernel's gradient
        (layer(), (16, 16, 16, 32), 64, 3, 0),
    ],
)
def test_where_it_would_not_be_faster(
    convolve: Convolve, images: Shape, outputs: int, window: int, remaining: int
) -> None:
    x = jnp.ones(images)
    groups = 2 if images[-1] == 128 else 1
    kernel = jnp.ones((window, window, images[-1] // groups, outputs))
    args = x, kernel, jnp.ones(jax.eval_shape(convolve, x, kernel).shape)
    assert count_convolutions(xsam_jax.channels_last(all_three(convolve)), *args) == remaining


@pytest.mark.parametrize("images", [(16, 8, 8, 64), (32, 4, 4, 256)])
def test_float32_is_right_to_a_few_roundings(images: Shape) -> None:
    args = _operands(layer(), images)
    few = [array.astype(jnp.float32) for array in args]
    found = jax.jit(FAST)(*few)
    exact = all_three(layer())(*(array.astype(jnp.float64) for array in few))
    for array, reference in zip(found, exact, strict=True):
        assert array.dtype == jnp.float32
        error = np.linalg.norm(array.astype(jnp.float64) - reference) / np.linalg.norm(reference)
        assert error < 16 * np.finfo(np.float32).eps


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_few_digits_are_rounded_once(dtype: Any) -> None:
    args = _operands(layer(), (8, 8, 8, 64), dtype=dtype)
    exact = all_three(layer())(*(array.astype(jnp.float64) for array in args))
    half = {jnp.float16: 2.0**-11, jnp.bfloat16: 2.0**-8}[dtype]
    for array, reference in zip(jax.jit(FAST)(*args), exact, strict=True):
        assert array.dtype == dtype
        numbers = array.astype(jnp.float64)
        np.testing.assert_allclose(numbers, reference, rtol=1.01 * half, atol=1e-3)


def test_derivatives_and_batches() -> None:
    """Of what was rewritten, in forward and in reverse mode, and under `jax.vmap`."""
    args, gradients = _operands(layer(), (32, 4, 4, 40), 40), all_three(layer())
    found = jax.jit(lambda: all_derivatives(FAST, args))()
    chex.assert_trees_all_close(found, all_derivatives(gradients, args), rtol=1e-9, atol=1e-9)


def test_a_product_with_the_hessian_in_a_loop() -> None:
    draw = np.random.default_rng(0).normal
    x, kernels = jnp.asarray(draw(size=(32, 4, 4, 40))), jnp.asarray(draw(size=(2, 3, 3, 40, 40)))

    def loss(kernels: chex.Array) -> chex.Array:
        one = lambda y, kernel: (jnp.tanh(layer()(y, kernel) / 20), None)
        return jnp.sum(lax.scan(one, x, kernels)[0] ** 2)

    gradient = jax.grad(loss)
    product = jax.jit(lambda v: xsam_jax.curvature.hvp(gradient, kernels, v))
    expected = jax.jvp(gradient, (kernels,), (kernels,))[1]
    chex.assert_trees_all_close(product(kernels), expected, rtol=1e-9, atol=1e-9)
    assert count_convolutions(product, kernels) == 0


@only_on_a_cpu
@pytest.mark.parametrize("images", [32, 256])
def test_memory_of_a_part(images: int) -> None:
    """It is that of 256 tiles' products, or of a million numbers, and no matter of the batch."""
    x, kernel = jnp.ones((images, 16, 16, 64)), jnp.ones((3, 3, 64, 64))

    def planned(fn: Callable[..., Any]) -> int:
        compiled: Any = jax.jit(fn).lower(x, kernel, x).compile()
        size: int = compiled.memory_analysis().temp_size_in_bytes
        return size

    for place in range(3):
        fn = lambda *args, place=place: all_three(layer())(*args)[place]
        added = planned(xsam_jax.channels_last(fn)) - planned(fn)
        assert added < 2.5 * 2**20 * x.dtype.itemsize + x.nbytes


def test_what_is_left_as_it_was() -> None:
    """Meshes, integers, and an unknown number of images."""
    x, kernel, _ = _operands(layer(), (8, 8, 8, 64))
    check_only_plain_floats_change(layer(), x, kernel, rtol=1e-9)
