"""Layers that several networks share, and initializers of their kernels.

These draw their numbers flat: XLA:CPU takes four times as long to compile a four-dimensional draw,
and a deep network has dozens of shapes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def conv(inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    """Convolve ``size`` x ``size`` pixels, without bias: BatchNorm brings one."""
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=(size - 1) // 2,
        use_bias=False,
        kernel_init=he_normal,
        rngs=rngs,
    )


def batch_norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """BatchNorm with the constants of the published residual networks."""
    return nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=rngs)


def max_pool(x: jax.Array) -> jax.Array:
    """Take the maxima of 2x2 pixels; an odd last row or column is kept.

    A maximum over axes and not over windows: XLA:CPU turns the gradient of a window's maximum into
    a serial scatter, which costs a small network a quarter of its time.
    """
    batch, height, width, channels = x.shape
    odd = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    windows = jnp.pad(x, odd, constant_values=-jnp.inf)
    windows = windows.reshape(batch, -(-height // 2), 2, -(-width // 2), 2, channels)
    return jnp.max(windows, axis=(2, 4))


def global_pool(x: jax.Array) -> jax.Array:
    """Average over all pixels."""
    return jnp.mean(x, axis=(1, 2))


def glorot_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Uniform with variance 2 / (fan_in + fan_out): Keras's default (Glorot and Bengio 2010)."""
    *window, inputs, outputs = shape
    limit = math.sqrt(6 / (math.prod(window) * (inputs + outputs)))
    return jax.random.uniform(key, (math.prod(shape),), dtype, -limit, limit).reshape(shape)


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Normal with variance 2 / fan_out, as the published ResNets have it (He et al. 2015)."""
    *window, _, outputs = shape
    deviation = math.sqrt(2 / (math.prod(window) * outputs))
    return deviation * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)
