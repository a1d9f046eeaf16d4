"""Trackers with another vector than the eigenvector, to see what the eigenvector brings."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import optax

from xsam_jax import Ascent, Eigenpair, Tracker, curvature, periodic

# Hessian-vector products of a refresh by Lanczos; one more checks the result.
LANCZOS_MATVECS = 10


def random_vector(every: int, seed: chex.Numeric) -> Tracker:
    """Track a random unit vector in the eigenvector's place, a new one every ``every`` steps.

    Args:
        every: Steps from one vector to the next.
        seed: Seed of the vectors.

    Returns:
        A tracker for `xsam`. Its eigenvalue is 0, for none is known.
    """

    def vector(step: Ascent, pair: Eigenpair, count: chex.Array) -> Eigenpair:
        key = jax.random.fold_in(jax.random.key(seed), count)
        noise = optax.tree.random_like(key, pair.vector, jax.random.normal)
        unit = optax.tree.scale(1 / optax.tree.norm(noise), noise)
        return pair._replace(vector=unit, value=jnp.zeros_like(pair.value))

    return periodic(every, vector)


def lanczos(every: int) -> Tracker:
    """Track the mini-batch's own dominant eigenvector, found by Lanczos.

    Args:
        every: Steps from one refresh to the next.

    Returns:
        A tracker for `xsam`.
    """

    def top(step: Ascent, pair: Eigenpair, count: chex.Array) -> Eigenpair:
        # A Hessian product is the gradient of a quadratic function with the same Hessian.
        pairs = curvature.top_eigenpairs(
            partial(step.hvp, step.params),
            step.params,
            num_matvecs=LANCZOS_MATVECS,
            key=jax.random.fold_in(jax.random.key(0), count),
        )
        found = jax.tree.map(lambda leaf, like: leaf[0].astype(like.dtype), pairs[1], pair.vector)
        return pair._replace(vector=found, value=pairs.values[0].astype(pair.value.dtype))

    return periodic(every, top)
