"""Layers that several networks share."""

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models.initializers import he_normal


def conv(inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    """Convolution of ``size`` x ``size`` pixels without bias, for BatchNorm brings its own."""
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
    """Maxima of 2x2 pixels; an odd last row or column is kept.

    A maximum over axes and not over windows: XLA:CPU turns the gradient of a window's maximum into
    a serial scatter, which costs a small network a quarter of its time.
    """
    batch, height, width, channels = x.shape
    odd = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    windows = jnp.pad(x, odd, constant_values=-jnp.inf)
    windows = windows.reshape(batch, -(-height // 2), 2, -(-width // 2), 2, channels)
    return jnp.max(windows, axis=(2, 4))


def global_pool(x: jax.Array) -> jax.Array:
    """Mean over all pixels."""
    return jnp.mean(x, axis=(1, 2))
