"""Layers that several networks share."""

import jax
import jax.numpy as jnp
from flax import nnx

# Preserves the variance of the backward pass through rectified layers (He et al. 2015).
_HE = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    """Convolution of ``size`` x ``size`` pixels without bias, for BatchNorm brings its own."""
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=(size - 1) // 2,
        use_bias=False,
        kernel_init=_HE,
        rngs=rngs,
    )


def batch_norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """BatchNorm with the constants of the published residual networks."""
    return nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=rngs)


def max_pool(x: jax.Array) -> jax.Array:
    """Maxima of 2x2 pixels; an odd last row or column is kept."""
    window = (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "SAME")


def global_pool(x: jax.Array) -> jax.Array:
    """Mean over all pixels."""
    return jnp.mean(x, axis=(1, 2))
