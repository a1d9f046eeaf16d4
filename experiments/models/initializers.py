"""Initializers of kernels.

They draw their numbers flat: XLA:CPU takes four times as long to compile a four-dimensional draw,
and a deep network has dozens of shapes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp


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
