"""Layers whose convolutions `channels_last` computes in another form, and how to count the rest."""

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax

import xsam_jax
from tests.meshes import mesh_of

Convolve = Callable[[chex.Array, chex.Array], chex.Array]
Gradients = Callable[[chex.Array, chex.Array, chex.Array], Any]

_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def layer(padding: Any = "SAME", strides: Any = None, **params: Any) -> Convolve:
    """A convolution of channels-last images of one to three dimensions."""

    def convolve(x: chex.Array, kernel: chex.Array) -> chex.Array:
        n = x.ndim - 2
        return lax.conv_general_dilated(
            x, kernel, strides or (1,) * n, padding, dimension_numbers=_LAYOUTS[n], **params
        )

    return convolve


def draw(*shape: int, dtype: Any = jnp.float64) -> chex.Array:
    """Normal numbers, of each shape others."""
    return jnp.asarray(np.random.default_rng(math.prod(shape)).normal(size=shape), dtype)


def operands(
    convolve: Convolve,
    images: tuple[int, ...],
    window: tuple[int, ...],
    outputs: int,
    dtype: Any = jnp.float64,
) -> list[chex.Array]:
    """Draw images (of this shape), a kernel and a cotangent."""
    x, kernel = draw(*images, dtype=dtype), draw(*window, images[-1], outputs, dtype=dtype)
    return [x, kernel, draw(*jax.eval_shape(convolve, x, kernel).shape, dtype=dtype)]


def all_three(convolve: Convolve) -> Gradients:
    """Compute a layer, its input's gradient and its kernel's gradient."""

    def gradients(x: chex.Array, kernel: chex.Array, cotangent: chex.Array) -> Any:
        out, pull = jax.vjp(convolve, x, kernel)
        return out, *pull(cotangent)

    return gradients


def all_derivatives(fn: Gradients, args: list[chex.Array]) -> Any:
    """Differentiate forwards and backwards, and map over batches of all arguments and of two."""
    tangents = [jnp.flip(array) for array in args]
    batched = [jnp.stack([array, jnp.flip(array)]) for array in args]
    reverse = jax.vjp(fn, *args)[1](fn(*tangents))
    shared = jax.vmap(fn, (0, None, 0))(batched[0], args[1], batched[2])
    return jax.jvp(fn, args, tangents), reverse, jax.vmap(fn)(*batched), shared


def check_only_plain_floats_change(
    convolve: Convolve, x: chex.Array, kernel: chex.Array, rtol: float = 1e-11
) -> None:
    """Meshes and integers keep the convolution; an unknown or no number of images is right."""
    fast = xsam_jax.channels_last(convolve)
    assert count_convolutions(fast, x, kernel) == 0
    with jax.set_mesh(mesh_of(2)):
        assert count_convolutions(fast, x, kernel) == 1
    whole = [jnp.round(9 * array).astype(jnp.int32) for array in (x, kernel)]
    chex.assert_trees_all_equal(jax.jit(fast)(*whole), convolve(*whole))
    (symbolic,) = export.symbolic_args_specs((x,), (", ".join(["n", *"_" * (x.ndim - 1)]),))
    exported = export.export(jax.jit(fast), platforms=["cpu"])(symbolic, kernel)
    expected = convolve(x, kernel)
    np.testing.assert_allclose(exported.call(x, kernel), expected, rtol=rtol, atol=rtol)
    assert fast(x[:0], kernel).shape == jax.jit(fast)(x[:0], kernel).shape == expected[:0].shape


def count_convolutions(fn: Callable[..., Any], *args: Any, platform: str = "cpu") -> int:
    """Count the convolutions of a program, as it is given to the compiler."""
    lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=(platform,))
    text: str = lowered.as_text()
    return text.count("stablehlo.convolution")
