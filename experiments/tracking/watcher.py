"""The form in which the measurement runs a tracker: what it sees, and what it keeps."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from xsam_jax import Ascent, Descent, Eigenpair, Tracker

Array = jax.Array
Family = Literal["authors", "products", "shared", "part", "free"]


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
        product_in_evaluation: ``(at, v)`` -> that of the whole batch with the network in evaluation
            mode, BatchNorm with its running statistics.
    """

    step: Array
    w: Array
    grads: Array
    grads_adv: Array
    perturbation: Array
    gradient: Callable[[Array], Array]
    product: Callable[[Array, Array, float], Array]
    product_in_evaluation: Callable[[Array, Array], Array]


class Watcher(NamedTuple):
    """A tracker as the measurement runs it.

    Attributes:
        title: What it is, in words.
        family: The figure draws families apart.
        cost: Gradients per step, SAM's two included.
        init: Parameters -> state.
        update: ``(Sight, state) -> state``.
        vector: State -> eigenvector.
        label: What it is called beside its point in the figure, empty for no label.
        two_modes: Whether it is for networks that have an evaluation mode of their own only.
    """

    title: str
    family: Family
    cost: float
    init: Callable[[Array], Any]
    update: Callable[[Sight, Any], Any]
    vector: Callable[[Any], Array]
    label: str = ""
    two_modes: bool = False


def unit(v: Array) -> Array:
    """Scale a vector to norm one; zero stays zero."""
    return v / jnp.maximum(jnp.linalg.norm(v), 1e-30)


def free_product(sight: Sight) -> tuple[Array, Array]:
    """Take the product that SAM's two gradients give: ``x``, of norm one, and about ``H x``."""
    inverse = 1 / jnp.maximum(jnp.linalg.norm(sight.perturbation), 1e-30)
    return inverse * sight.perturbation, inverse * (sight.grads_adv - sight.grads)


def from_library(
    title: str,
    family: Family,
    cost: float,
    tracker: Tracker,
    *,
    part: float = 1.0,
    evaluation: bool = False,
    label: str = "",
) -> Watcher:
    """Make a watcher of a tracker of the library.

    Args:
        title: See `Watcher`.
        family: See `Watcher`.
        cost: See `Watcher`.
        tracker: The tracker.
        part: The part of the batch in ``curvature_grad_fn``.
        evaluation: Whether the network is in evaluation mode there.
        label: See `Watcher`.

    Returns:
        The watcher.
    """

    def update(sight: Sight, pair: Eigenpair) -> Eigenpair:
        s = sight
        product = s.product_in_evaluation if evaluation else partial(_of_part, s, part)
        ascent = Ascent(s.grads, s.grads, s.w, product)
        pair = tracker.before(ascent, pair, s.step)
        descent = Descent(s.grads, s.grads_adv, (jnp.ones(()), s.perturbation), s.w)
        return tracker.after(descent, pair)[0]

    return Watcher(title, family, cost, tracker.init, update, lambda pair: pair.vector, label)


def _of_part(sight: Sight, part: float, at: Array, v: Array) -> Array:
    return sight.product(at, v, part)


def on_vector(
    title: str, family: Family, cost: float, update: Callable[[Sight, Array], Array]
) -> Watcher:
    """Make a watcher whose state is its vector, which starts as SAM's own product."""

    def started(sight: Sight, v: Array) -> Array:
        return update(sight, jnp.where(jnp.vdot(v, v) == 0, unit(free_product(sight)[1]), v))

    return Watcher(title, family, cost, jnp.zeros_like, started, lambda v: v)
