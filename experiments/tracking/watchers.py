"""A tracker as the measurement runs it: what it sees of a step of SAM, and what it keeps."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from xsam_jax._eigenvector import Eigenpair, Tracker
from xsam_jax._linalg import Scaled
from xsam_jax._two_gradients import Ascent, Descent

Array = jax.Array
Family = Literal["paper", "products", "shared", "part", "free"]


class Sight(NamedTuple):
    """What a tracker sees of a step of SAM. All vectors are flat.

    Attributes:
        step: Number of this step, from 0.
        w: Parameters.
        grads: Gradient at ``w``.
        grads_adv: Gradient at ``w + perturbation``.
        perturbation: SAM's.
        gradient: Parameters -> gradient of the batch.
        product: ``(at, v, part)`` -> Hessian of the first ``part`` of the batch ``at``, times v.
    """

    step: Array
    w: Array
    grads: Array
    grads_adv: Array
    perturbation: Array
    gradient: Callable[[Array], Array]
    product: Callable[[Array, Array, float], Array]


class Watcher(NamedTuple):
    """A tracker as the measurement runs it.

    Attributes:
        title: What it is, in words.
        family: The figure draws families apart.
        cost: Gradients per step, SAM's two included.
        init: Parameters -> state.
        update: ``(Sight, state) -> state``.
        vector: State -> eigenvector.
    """

    title: str
    family: Family
    cost: float
    init: Callable[[Array], Any]
    update: Callable[[Sight, Any], Any]
    vector: Callable[[Any], Array]


def unit(v: Array) -> Array:
    """``v`` with norm one, or zero."""
    return v / jnp.maximum(jnp.linalg.norm(v), 1e-30)


def free_product(sight: Sight) -> tuple[Array, Array]:
    """SAM's own product: ``x``, of norm one, and the estimate of ``H x``."""
    inverse = 1 / jnp.maximum(jnp.linalg.norm(sight.perturbation), 1e-30)
    return inverse * sight.perturbation, inverse * (sight.grads_adv - sight.grads)


def from_library(
    title: str, family: Family, cost: float, tracker: Tracker, part: float = 1.0
) -> Watcher:
    """A tracker of the library; ``part`` is the part of the batch in ``curvature_grad_fn``."""

    def update(sight: Sight, pair: Eigenpair) -> Eigenpair:
        s = sight
        ascent = Ascent(s.grads, s.grads, s.w, lambda w, v: s.product(w, v, part))
        pair = tracker.before(ascent, pair, s.step)
        perturbation = Scaled(jnp.ones(()), s.perturbation)
        descent = Descent(s.grads, s.grads_adv, perturbation, s.w, {}, jnp.bool_(True), pair)
        return tracker.after(descent, pair)[0]

    return Watcher(title, family, cost, tracker.init, update, lambda pair: pair.vector)


def on_vector(
    title: str, family: Family, cost: float, update: Callable[[Sight, Array], Array]
) -> Watcher:
    """A tracker whose state is the vector; it starts as the direction of SAM's own product."""

    def started(sight: Sight, v: Array) -> Array:
        return update(sight, jnp.where(jnp.vdot(v, v) == 0, unit(free_product(sight)[1]), v))

    return Watcher(title, family, cost, jnp.zeros_like, started, lambda v: v)
