"""channels_last: an operand is not copied before its turn."""

import re
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

Kernels = list[chex.Array]


def _convolve(images: chex.Array, kernel: chex.Array) -> chex.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def _gradient(kernels: Kernels, images: chex.Array) -> Kernels:
    def loss(kernels: Kernels) -> chex.Array:
        outputs = images
        for kernel in kernels:
            outputs = jax.nn.relu(_convolve(outputs, kernel))
        return jnp.sum(outputs)

    return jax.grad(loss)(kernels)


def _product(kernels: Kernels, images: chex.Array) -> Kernels:
    return jax.jvp(lambda kernels: _gradient(kernels, images), (kernels,), (kernels,))[1]


def _planned(fn: Callable[..., Any], *args: Any) -> int:
    """Ask the compiler how many bytes a function needs beside arguments and result."""
    size: int = jax.jit(fn).lower(*args).compile().memory_analysis().temp_size_in_bytes
    return size


@only_on_a_cpu
@pytest.mark.parametrize(
    ("fn", "window", "channels", "images", "pixels"),  # without Winograd's form
    [
        pytest.param(_gradient, (3, 2), 64, 64, 12, id="images"),
        pytest.param(_gradient, (3, 2), 64, 64, 28, id="images, summed in parts"),
        pytest.param(_product, (3, 2), 64, 64, 12, id="images of a product"),
        pytest.param(_gradient, (3, 3), 192, 7, 8, id="kernels"),
    ],
)
def test_copies_do_not_lie_about(
    fn: Any, window: tuple[int, int], channels: int, images: int, pixels: int
) -> None:
    args = (
        [jnp.ones((*window, channels, channels), jnp.float32)] * 6,
        jnp.ones((images, pixels, pixels, channels), jnp.float32),
    )
    assert _planned(xsam_jax.channels_last(fn), *args) < 0.8 * _planned(fn, *args)


@pytest.mark.parametrize("at", [0, -1])
def test_what_is_not_a_number_stays_where_it_is(at: int) -> None:
    """The condition on which an operand waits holds for NaN too."""
    draw = np.random.default_rng(3).normal
    images = jnp.asarray(draw(size=(4, 16, 16, 256)), jnp.float32)
    kernel = jnp.asarray(draw(size=(3, 2, 256, 256)), jnp.float32)  # without Winograd's form
    for bad in (np.nan, np.inf):
        cotangent = jnp.ones_like(images).at[at, at, at, at].set(bad)
        gradient = lambda *args: jax.vjp(_convolve, *args[:2])[1](args[2])
        args = (images, kernel, cotangent)
        expected = jax.jit(gradient)(*args)
        found = jax.jit(xsam_jax.channels_last(gradient))(*args)
        assert 0 < int(jnp.sum(~jnp.isfinite(expected[0]))) <= 3 * 2 * 256
        chex.assert_trees_all_equal(found[0], expected[0])
        chex.assert_trees_all_close(found[1], expected[1], rtol=1e-4, atol=1e-3)


def test_large_operands_on_one_device_wait() -> None:
    """On a mesh one device may have the number that the condition is of, and others would ask."""
    fast = jax.jit(xsam_jax.channels_last(_gradient))

    def waiting(pixels: int, platform: str = "cpu") -> int:
        args = [jnp.ones((3, 2, 32, 32))], jnp.ones((8, 32, pixels, 32))
        program = fast.trace(*args).lower(lowering_platforms=(platform,)).as_text()
        return len(re.findall(r"compare\s+NE", program))

    assert [waiting(pixels) for pixels in (31, 32)] == [0, 1]
    assert waiting(32, "cuda") == 0
    with jax.set_mesh(mesh_of(2)):
        assert waiting(32) == 0


def test_an_unknown_number_of_images_is_not_waited_for() -> None:
    kernels = [jnp.ones((3, 3, 192, 192), jnp.float32)] * 2
    (images,) = export.symbolic_args_specs(
        (jnp.ones((1, 4, 4, 192), jnp.float32),), ("n, _, _, _",)
    )
    exported = export.export(jax.jit(xsam_jax.channels_last(_gradient)))(kernels, images)
    assert not re.search(r"compare\s+NE, %(\d+), %\1,", exported.mlir_module())


def test_nothing_is_not_waited_for() -> None:
    images = jnp.ones((8, 32, 32, 32), jnp.float32)
    nothing = jnp.ones((3, 3, 32, 0), jnp.float32)
    gradient = jax.grad(lambda kernel: jnp.sum(_convolve(images, kernel)))
    assert jax.jit(xsam_jax.channels_last(gradient))(nothing).shape == nothing.shape


def test_a_kernel_that_all_members_of_a_batch_share_stays_one() -> None:
    kernels = [jnp.ones((3, 3, 192, 192), jnp.float32)] * 2
    images = jnp.ones((5, 2, 4, 4, 192), jnp.float32)
    gradients = jax.vmap(xsam_jax.channels_last(_gradient), (None, 0))
    program = jax.jit(gradients).trace(kernels, images).lower(lowering_platforms=("cpu",)).as_text()
    assert re.search(r"compare\s+NE", program)
    # Of each kernel's gradient all members have their own; the input's has one kernel for all.
    assert program.count("feature_group_count = 5") == 2


def test_large_operands_in_a_derivative() -> None:
    """Of the function that was rewritten, in forward and in reverse mode."""
    draw = np.random.default_rng(4).normal
    images, kernel = (jnp.asarray(draw(size=s)) / 9 for s in ((2, 8, 8, 192), (3, 3, 192, 192)))
    inner = lambda kernel: _gradient([kernel, kernel], images)[0]
    fast = xsam_jax.channels_last(inner)
    expected, found = (
        jax.jit(lambda k, fn=fn: (jax.jvp(fn, (k,), (k,))[1], jax.vjp(fn, k)[1](k)[0]))(kernel)
        for fn in (inner, fast)
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-9)
