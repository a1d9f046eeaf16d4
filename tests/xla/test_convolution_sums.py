"""channels_last: kernels' gradients are summed in parts."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import core

import xsam_jax
from tests.meshes import mesh_of


def _kernel_gradient(x: chex.Array, cotangent: chex.Array, **params: Any) -> chex.Array:
    """Compute the kernel's gradient of a 3x3 convolution, which sums the batch's pixels."""
    channels = x.shape[-1] // params.get("feature_group_count", 1)
    kernel = jnp.zeros((3, 3, channels, cotangent.shape[-1]), x.dtype)
    numbers = ("NHWC", "HWIO", "NHWC")
    convolve = partial(lax.conv_general_dilated, dimension_numbers=numbers, **params)
    return jax.vjp(lambda kernel: convolve(x, kernel, (1, 1), "SAME"), kernel)[1](cotangent)[0]


def _images(batch: int, dtype: Any, pixels: tuple[int, int] = (28, 28)) -> list[chex.Array]:
    draw = np.random.default_rng(2).normal
    return [jnp.asarray(draw(size=(batch, *pixels, 2)), dtype) for _ in range(2)]


def _parts(jaxpr: Any) -> list[int]:
    """List in how many parts each sum is computed."""
    lengths = [eqn.params["length"] for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    inner = (inner for eqn in jaxpr.eqns for inner in core.jaxprs_in_params(eqn.params))
    return lengths + [length for jaxpr in inner for length in _parts(jaxpr)]


FAST = xsam_jax.channels_last(_kernel_gradient)


@pytest.mark.parametrize(("batch", "parts"), [(4, 1), (8, 2), (12, 2), (15, 1), (36, 4), (64, 16)])
def test_long_sums_are_computed_in_parts(batch: int, parts: int) -> None:
    args = _images(batch, jnp.float64)
    assert _parts(jax.make_jaxpr(FAST)(*args).jaxpr) == ([] if parts == 1 else [parts])
    expected = jax.jit(_kernel_gradient)(*args)
    np.testing.assert_allclose(jax.jit(FAST)(*args), expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(("batch", "pixels", "parts"), [(2, (37, 83), 1), (6, (32, 32), 2)])
def test_the_shortest_long_sum(batch: int, pixels: tuple[int, int], parts: int) -> None:
    """One of 6,144 terms, as the documentation says; 6,142 are summed as one."""
    args = _images(batch, jnp.float64, pixels)
    assert _parts(jax.make_jaxpr(FAST)(*args).jaxpr) == ([] if parts == 1 else [parts])


@pytest.mark.parametrize("groups", ["feature_group_count", "batch_group_count"])
def test_groups_of_long_sums_are_whole(groups: str) -> None:
    x, kernel = jnp.ones((2, 2048, 4, 4)), jnp.ones((2, 1024, 3, 3))
    x = x if groups == "feature_group_count" else x[:, :1024]
    convolve = partial(lax.conv_general_dilated, window_strides=(1, 1), padding="SAME")
    grouped = partial(convolve, **{groups: 2})
    for fn, loops in ((convolve, [2]), (grouped, [])):
        operand = x[:, :1024] if fn is convolve else x
        jaxpr = jax.make_jaxpr(xsam_jax.channels_last(fn))(operand, kernel).jaxpr
        assert _parts(jaxpr) == loops


@pytest.mark.parametrize("constant", [0, 1])
def test_of_an_operand_that_is_a_constant(constant: int) -> None:
    args = _images(64, jnp.float32)
    traced = args.pop(1 - constant)
    place = lambda one: (one, *args) if constant else (*args, one)
    fast = xsam_jax.channels_last(lambda one: _kernel_gradient(*place(one)))
    assert _parts(jax.make_jaxpr(fast)(traced).jaxpr) == [16]


def test_sums_in_parts_are_for_the_cpu_alone() -> None:
    args = _images(64, jnp.float32)
    for fn, platform, loop in (
        (FAST, "cpu", True),
        (FAST, "cuda", False),
        (_kernel_gradient, "cpu", False),
    ):
        lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=(platform,))
        assert ("stablehlo.while" in lowered.as_text()) == loop


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_few_digits_are_summed_in_float32_and_rounded_once(dtype: Any) -> None:
    """The parts as well as their sum: no number is further from the exact one than its rounding."""
    x, cotangent = (images.astype(dtype) for images in _images(64, jnp.float32))
    assert _parts(jax.make_jaxpr(FAST)(x, cotangent).jaxpr) == [16]
    exact = _kernel_gradient(x.astype(jnp.float64), cotangent.astype(jnp.float64))
    half = {jnp.float16: 2.0**-11, jnp.bfloat16: 2.0**-8}[dtype]
    found = jax.jit(FAST)(x, cotangent)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(jnp.float64), exact, rtol=1.01 * half, atol=1e-3)


@pytest.mark.parametrize("preferred", [None, jnp.float16, jnp.float32])
def test_parts_beyond_the_range_of_float16(preferred: Any) -> None:
    """Each half of the images sums to four times the largest number, and both together to 64."""
    signs = jnp.where(jnp.arange(64) < 32, 1, -1).astype(jnp.float16)[:, None, None, None]
    x = 8 * jnp.ones((64, 14, 14, 3), jnp.float16)
    cotangent = (8 * signs * jnp.ones((64, 14, 14, 4), jnp.float16)).at[0, 5, 5].add(8)
    numbers = ("CHWN", "IHWO", "HWNC")
    sums = partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=numbers,
    )
    fast = xsam_jax.channels_last(partial(sums, preferred_element_type=preferred))
    args = x, cotangent
    assert _parts(jax.make_jaxpr(fast)(*args).jaxpr) == [4]
    expected = sums(*(array.astype(jnp.float64) for array in args))
    found = jax.jit(fast)(*args)
    assert found.dtype == (preferred or jnp.float16)
    np.testing.assert_array_equal(found.astype(jnp.float64), expected)
    # What is larger than the largest number is infinite, as it is without parts.
    large = jax.jit(FAST)(x, jnp.abs(cotangent))
    assert jnp.isposinf(large).all()


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int32])
def test_parts_of_integers_are_exact(dtype: Any) -> None:
    x, cotangent = (jnp.round(9 * images).astype(dtype) for images in _images(64, jnp.float32))
    sums = lambda x, cotangent: lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        cotangent.transpose(3, 0, 1, 2),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "OIHW", "NCHW"),
        preferred_element_type=jnp.int32,
    )
    fast = xsam_jax.channels_last(sums)
    assert _parts(jax.make_jaxpr(fast)(x, cotangent).jaxpr) == [16]
    found, expected = jax.jit(fast)(x, cotangent), sums(x, cotangent)
    assert found.dtype == jnp.int32
    chex.assert_trees_all_equal(found, expected)


def test_derivatives_of_parts_of_few_digits() -> None:
    """Of what was rewritten, whose convolutions have other dtypes than its operands."""
    args = [images.astype(jnp.bfloat16) for images in _images(16, jnp.float32)]

    def of(fn: Any) -> Any:
        return jax.jvp(fn, args, args)[1], jax.vjp(fn, *args)[1](fn(*args))

    found, expected = jax.jit(partial(of, FAST))(), jax.jit(partial(of, _kernel_gradient))()
    chex.assert_trees_all_close(found, expected, rtol=0.03, atol=0.5)


def test_grouped_convolutions_and_those_in_a_mesh_are_whole() -> None:
    args = _images(64, jnp.float32)
    grouped = xsam_jax.channels_last(partial(_kernel_gradient, feature_group_count=2))
    assert not _parts(jax.make_jaxpr(grouped)(*args).jaxpr)
    with jax.set_mesh(mesh_of(2)):
        assert not _parts(jax.make_jaxpr(FAST)(*args).jaxpr)
    assert _parts(jax.make_jaxpr(FAST)(*args).jaxpr) == [16]
