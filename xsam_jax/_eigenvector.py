"""Trackers of the Hessian's dominant eigenvector, which `xsam` and `eigen_sam` share."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp

from xsam_jax import _linalg
from xsam_jax._two_gradients import Ascent, Descent


class Eigenpair(NamedTuple):
    """An estimate of the Hessian's dominant eigenpair.

    Attributes:
      vector: tree like the parameters, of norm one, or zero while nothing is known; float32, or
        float64 for float64 parameters.
      value: the eigenvalue, float32[].
    """

    vector: chex.ArrayTree
    value: chex.Array


class Tracker(NamedTuple):
    """A way to follow the dominant eigenvector through training.

    Attributes:
      before: ``(Ascent, pair, count) -> pair``, with Hessian-vector products at the parameters.
      after: ``(Descent, pair) -> pair``, from the step's two gradients.
    """

    before: Callable[[Ascent, Eigenpair, chex.Array], Eigenpair]
    after: Callable[[Descent, Eigenpair], Eigenpair]


def unknown(params: chex.ArrayTree) -> Eigenpair:
    """The pair before the first refresh: a zero vector, which corrects nothing."""
    return Eigenpair(_linalg.zeros_like(params), jnp.zeros([], jnp.float32))
