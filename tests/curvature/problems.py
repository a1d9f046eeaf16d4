"""Hessians with prescribed spectra, and small nets with their dense Hessians."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

from xsam_jax import curvature

KEY = jax.random.key(7)
Loss = Callable[[Any], chex.Array]


def with_spectrum(spectrum: Any, dtype: Any = jnp.float64, *, rotate: bool = True) -> chex.Array:
    """Make a symmetric matrix with these eigenvalues."""
    spectrum = np.asarray(spectrum, np.float64)
    if not rotate:
        return jnp.diag(jnp.asarray(spectrum, dtype))
    normals = np.random.default_rng(0).normal(size=(spectrum.size, spectrum.size))
    basis, _ = np.linalg.qr(normals)
    return jnp.asarray(basis * spectrum @ basis.T, dtype)


def quadratic(matrix: chex.Array) -> Callable[[chex.Array], chex.Array]:
    """Make the gradient function of ``w.T matrix w / 2``."""
    return lambda w: matrix @ w


def mlp() -> tuple[Loss, dict[str, Any]]:
    """A 5-4-3 classifier on 30 examples at a random point: 39 parameters, an indefinite Hessian."""
    keys = jax.random.split(jax.random.key(1), 4)
    x, labels = jax.random.normal(keys[0], (30, 5)), jax.random.randint(keys[1], (30,), 0, 3)
    params = {
        "hidden": [jax.random.normal(keys[2], (5, 4)), jnp.zeros(4)],
        "out": {"kernel": jax.random.normal(keys[3], (4, 3)), "bias": jnp.zeros(3)},
    }

    def loss(p: Any) -> chex.Array:
        hidden = jnp.tanh(x @ p["hidden"][0] + p["hidden"][1][None])
        logits = hidden @ p["out"]["kernel"] + p["out"]["bias"][None]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(30), labels])

    return loss, params


def convnet() -> tuple[Loss, dict[str, chex.Array]]:
    """Two 3x3 convolutions with stride and a linear layer, in PyTorch's layout, 142 parameters."""
    keys = jax.random.split(jax.random.key(2), 5)
    x, target = jax.random.normal(keys[0], (8, 1, 8, 8)), jax.random.normal(keys[1], (8, 2))
    params = {
        "first": jax.random.normal(keys[2], (3, 1, 3, 3)) / 3,
        "second": jax.random.normal(keys[3], (4, 3, 3, 3)) / 5,
        "out": jax.random.normal(keys[4], (4, 2)) / 2,
    }

    def loss(p: dict[str, chex.Array]) -> chex.Array:
        h = jnp.tanh(lax.conv_general_dilated(x, p["first"], (2, 2), "SAME"))
        h = jnp.tanh(lax.conv_general_dilated(h, p["second"], (2, 2), "SAME"))
        return jnp.mean((jnp.mean(h, axis=(2, 3)) @ p["out"] - target) ** 2)

    return loss, params


@functools.cache
def problem(net: Callable[[], tuple[Loss, Any]]) -> tuple[Loss, Any, np.ndarray]:
    """Make the loss, parameters and dense Hessian of a net."""
    loss, params = net()
    flat, unravel = ravel_pytree(params)
    return loss, params, np.asarray(jax.jit(jax.hessian(lambda w: loss(unravel(w))))(flat))


def flat_rows(vectors: Any) -> chex.Array:
    """Flatten a tree with a leading axis k into a matrix [k, size]."""
    return jnp.concatenate([x.reshape(len(x), -1) for x in jax.tree.leaves(vectors)], axis=1)


NETS = pytest.mark.parametrize("net", [mlp, convnet])


SPECTRA = {
    "separated": [9.0, 5.0, 3.0, *np.linspace(-1, 1, 47)],
    "clustered": [5.0, 4.999, 4.998, 4.0, *np.full(46, 0.5)],
    "negative": -np.geomspace(1e-3, 10, 50),
    "indefinite": [*-np.geomspace(0.1, 20, 25), *np.geomspace(0.1, 15, 25)],
    "rank one": [3.0, *np.zeros(49)],
    "negative rank one": [-3.0, *np.zeros(49)],
    "double": [4.0, 4.0, *np.full(20, 1.0), *np.zeros(28)],
    "identity": np.ones(50),
    "zero": np.zeros(50),
    "tiny": 1e-12 * np.linspace(-1, 0.9, 50),
    "huge": 1e12 * np.linspace(-1, 0.9, 50),
}


# The matrix is an argument, so that one compilation serves all spectra.
@partial(jax.jit, static_argnames=("k", "which", "num_matvecs"))
def eigenpairs_of(matrix: chex.Array, **options: Any) -> curvature.Eigenpairs:
    w = jnp.ones(len(matrix), matrix.dtype)
    return curvature.top_eigenpairs(quadratic(matrix), w, key=KEY, **options)


@partial(jax.jit, static_argnames=("num_matvecs", "num_probes"))
def density_of(matrix: chex.Array, **options: Any) -> curvature.Density:
    w = jnp.ones(len(matrix), matrix.dtype)
    return curvature.spectral_density(quadratic(matrix), w, key=KEY, **options)


@jax.jit
def traces_of(matrix: chex.Array, keys: chex.PRNGKey) -> curvature.Estimate:
    w = jnp.ones(len(matrix), matrix.dtype)
    return jax.vmap(lambda key: curvature.trace(quadratic(matrix), w, key=key))(keys)
