"""Quadratic losses ``w.T H w / 2`` on a tree of two leaves, whose Hessian has a known spectrum."""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np


def hessian(spectrum: Sequence[float], seed: int = 0) -> tuple[chex.Array, chex.Array]:
    """Make a matrix with the given eigenvalues, and its eigenvectors as columns."""
    n = len(spectrum)
    vectors, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return jnp.asarray((vectors * np.asarray(spectrum)) @ vectors.T), jnp.asarray(vectors)


def tree(flat: chex.Array, dtype: Any = None) -> dict[str, chex.Array]:
    """Divide a vector of length n into leaves of shapes [2, 1] and [n - 2]."""
    flat = jnp.asarray(flat, dtype)
    return {"a": flat[:2].reshape(2, 1), "b": flat[2:]}


def flat(tree: dict[str, chex.Array]) -> chex.Array:
    return jnp.concatenate([tree["a"].reshape(-1), tree["b"]])


def grad_fn(matrix: chex.Array) -> Callable[[chex.ArrayTree], chex.ArrayTree]:
    def gradient(params: dict[str, chex.Array]) -> dict[str, chex.Array]:
        w = flat(params)
        return tree(matrix.astype(w.dtype) @ w)

    return gradient


def start(n: int, seed: int = 1, dtype: Any = None) -> dict[str, chex.Array]:
    return tree(np.random.default_rng(seed).normal(size=n), dtype)


def flat_steps(trees: dict[str, chex.Array]) -> chex.Array:
    """Flatten stacked trees into rows of an array."""
    return jax.vmap(flat)(trees)
