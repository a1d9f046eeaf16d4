"""channels_last: windows of one pixel, and their kernels' gradients, are matrix products."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import xsam_jax
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

# The layer, its images and its window.
POINTWISE: dict[str, tuple[Convolve, tuple[int, ...], tuple[int, ...]]] = {
    "1x1": (layer(), (6, 5, 4, 3), (1, 1)),
    "strided": (layer(strides=(2, 2)), (6, 5, 4, 3), (1, 1)),
    "strided, nothing left over": (layer(strides=(2, 3)), (6, 8, 6, 3), (1, 1)),
    "padded": (layer([(1, 2), (0, 3)], (2, 1)), (6, 5, 4, 3), (1, 1)),
    "cut": (layer([(-1, 2), (0, -2)]), (6, 5, 4, 3), (1, 1)),
    "dilated image": (layer([(1, 0), (0, 2)], lhs_dilation=(2, 3)), (6, 3, 4, 3), (1, 1)),
    "dilated window": (layer(rhs_dilation=(2, 2)), (6, 5, 4, 3), (1, 1)),
    "of one dimension": (layer(strides=(2,)), (6, 7, 3), (1,)),
    "of three": (layer(strides=(1, 2, 1)), (6, 2, 3, 2, 3), (1, 1, 1)),
    "long sums, in parts": (layer(strides=(2, 2)), (32, 32, 32, 2), (1, 1)),
}


@pytest.mark.parametrize("case", POINTWISE)
def test_the_same_numbers_without_a_convolution(case: str) -> None:
    convolve, images, window = POINTWISE[case]
    args = operands(convolve, images, window, 4)
    gradients = all_three(convolve)
    fast, expected = xsam_jax.channels_last(gradients), gradients(*args)
    chex.assert_trees_all_close(jax.jit(fast)(*args), expected, rtol=1e-11, atol=1e-11)
    assert count_convolutions(fast, *args) == 0
    assert count_convolutions(fast, *args, platform="cuda") == 3


@pytest.mark.parametrize("case", ["strided", "padded", "dilated image"])
def test_derivatives_and_batches(case: str) -> None:
    """Of what was rewritten, in forward and in reverse mode, and under `jax.vmap`."""
    convolve, images, window = POINTWISE[case]
    args, gradients = operands(convolve, images, window, 4), all_three(convolve)
    found = jax.jit(lambda: all_derivatives(xsam_jax.channels_last(gradients), args))()
    chex.assert_trees_all_close(found, all_derivatives(gradients, args), rtol=1e-10, atol=1e-10)


def test_channels_first() -> None:
    first: Convolve = lambda x, kernel: lax.conv(x, kernel, (2, 2), "SAME")
    args = draw(6, 3, 5, 4), draw(7, 3, 1, 1), draw(6, 7, 3, 2)
    fast = xsam_jax.channels_last(all_three(first))
    expected = all_three(first)(*args)
    chex.assert_trees_all_close(jax.jit(fast)(*args), expected, rtol=1e-11, atol=1e-11)
    assert count_convolutions(fast, *args) == 0


def test_one_output_of_a_window_on_the_image() -> None:
    """A layer that takes all pixels at once, and gaps between them, has the same form."""
    convolve = layer("VALID", rhs_dilation=(2, 1))
    x, kernel, _ = operands(convolve, (6, 5, 5, 3), (3, 5), 4)
    fast = xsam_jax.channels_last(convolve)
    np.testing.assert_allclose(jax.jit(fast)(x, kernel), convolve(x, kernel), rtol=1e-11)
    assert count_convolutions(fast, x, kernel) == 0


def test_a_strided_image_with_gaps_stays_a_convolution() -> None:
    convolve = layer([(0, 1), (1, 0)], (2, 2), lhs_dilation=(3, 3))
    x, kernel, _ = operands(convolve, (6, 4, 4, 3), (1, 1), 4)
    fast = xsam_jax.channels_last(convolve)
    np.testing.assert_allclose(jax.jit(fast)(x, kernel), convolve(x, kernel), rtol=1e-11)
    assert count_convolutions(fast, x, kernel) == 1


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_few_digits_are_rounded_once(dtype: Any) -> None:
    convolve = layer(strides=(2, 2))
    args = operands(convolve, (200, 7, 7, 3), (1, 1), 4, dtype)
    exact = all_three(convolve)(*(array.astype(jnp.float64) for array in args))
    half = {jnp.float16: 2.0**-11, jnp.bfloat16: 2.0**-8}[dtype]
    found = jax.jit(xsam_jax.channels_last(all_three(convolve)))(*args)
    for array, reference in zip(found, exact, strict=True):
        assert array.dtype == dtype
        numbers = array.astype(jnp.float64)
        np.testing.assert_allclose(numbers, reference, rtol=1.01 * half, atol=1e-4)


def test_what_is_left_as_it_was() -> None:
    """Groups, meshes, integers, and an unknown number of images or of their pixels."""
    x, kernel, _ = operands(layer(), (6, 5, 4, 4), (1, 1), 4)
    grouped = layer(feature_group_count=2)
    assert count_convolutions(xsam_jax.channels_last(grouped), x, kernel[:, :, :2]) == 1
    check_only_plain_floats_change(layer(), x, kernel)
    fast = xsam_jax.channels_last(layer())
    gradients = jax.jit(xsam_jax.channels_last(all_three(layer())))
    (many, same) = export.symbolic_args_specs((x, x), ("n, _, _, _", "n, _, _, _"))
    exported = export.export(gradients, platforms=["cpu"])(many, kernel, same)
    chex.assert_trees_all_close(
        exported.call(x, kernel, x), all_three(layer())(x, kernel, x), rtol=1e-11
    )
    (large,) = export.symbolic_args_specs((x,), ("_, h, w, _",))
    exported = export.export(jax.jit(fast), platforms=["cpu"])(large, kernel)
    np.testing.assert_allclose(exported.call(x, kernel), layer()(x, kernel), rtol=1e-11)
    empty = gradients(x[:0], kernel, x[:0])
    assert empty[0].shape == x[:0].shape
    assert not empty[2].any()
