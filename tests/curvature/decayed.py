"""A loss with a decay, whose Hessian has one multiple eigenvalue, and its dense Hessian."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from tests.curvature.problems import KEY
from xsam_jax import curvature

SIZE = 12
DATA = np.random.default_rng(0).normal(size=(4, SIZE))
POINT = {"a": 0.3 * DATA[0, :5], "b": 0.2 * DATA[1, 5:]}
Inputs = tuple[dict[str, chex.Array], chex.Array, chex.Array]
BOTH = pytest.mark.parametrize("derivative", [jax.jacfwd, jax.jacrev])


def inputs(dtype: Any = jnp.float64) -> Inputs:
    """Make parameters, four examples and a decay, which is an eigenvalue of multiplicity eight."""
    params = {name: jnp.asarray(leaf, dtype) for name, leaf in POINT.items()}
    return params, jnp.asarray(DATA, dtype), jnp.asarray(0.1, dtype)


def loss(params: Any, data: chex.Array, decay: chex.Array) -> chex.Array:
    flat = ravel_pytree(params)[0]
    return jnp.sum(jnp.sin(data @ flat + 1)) + decay * jnp.sum(flat**2) / 2


def gradient(data: chex.Array, decay: chex.Array) -> Callable[[Any], Any]:
    return jax.grad(partial(loss, data=data, decay=decay))


def dense(params: Any, data: chex.Array, decay: chex.Array) -> chex.Array:
    flat, unravel = ravel_pytree(params)
    return jax.hessian(lambda w: loss(unravel(w), data, decay))(flat)


def pairs(which: str, k: int, *of: Any) -> curvature.Eigenpairs:
    params, data, decay = of
    return curvature.top_eigenpairs(gradient(data, decay), params, k, which=which, key=KEY)
