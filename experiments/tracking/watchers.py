"""The trackers that are compared, and what each costs in gradients per step.

The unit is one gradient of the step's mini-batch. SAM itself is 2. A Hessian-vector product is 2: a
gradient and its tangent. At the perturbed point SAM computes the gradient anyway, so there a
product is 1, its tangent. A product of a part of the batch costs that part. Vector arithmetic is
not counted.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from xsam_jax import oja, power_iteration, subspace
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
        product: ``(at, v, part)`` -> Hessian of the first ``part`` of the batch ``at``, times v.
    """

    step: Array
    w: Array
    grads: Array
    grads_adv: Array
    perturbation: Array
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
        ascent = Ascent(s.grads, s.grads, s.w, lambda v: s.product(s.w, v, part))
        pair = tracker.before(ascent, pair, s.step)
        perturbation = Scaled(jnp.ones(()), s.perturbation)
        descent = Descent(s.grads, s.grads_adv, perturbation, s.w, {}, jnp.bool_(True), pair)
        return tracker.after(descent, pair)

    return Watcher(title, family, cost, tracker.init, update, lambda pair: pair.vector)


def on_vector(
    title: str, family: Family, cost: float, update: Callable[[Sight, Array], Array]
) -> Watcher:
    """A tracker whose state is the vector; it starts as the direction of SAM's own product."""

    def started(sight: Sight, v: Array) -> Array:
        return update(sight, jnp.where(jnp.vdot(v, v) == 0, unit(free_product(sight)[1]), v))

    return Watcher(title, family, cost, jnp.zeros_like, started, lambda v: v)


def averaged(
    weight: float = 1.0,
    *,
    every: int = 1,
    part: float = 1.0,
    perturbed: bool = False,
    oja_rate: float | None = None,
) -> Callable[[Sight, Array], Array]:
    """``v <- normalize((1 - weight) v + weight h)`` with ``h = Hv / ||Hv||``, every so often.

    A weight below one is a memory, an average over batches.

    Args:
        weight: Of the new product.
        every: Steps between products.
        part: Part of the batch in the product.
        perturbed: Take the product where SAM's second gradient is taken.
        oja_rate: Rate of a step of Oja's rule before it, none if None.
    """

    def update(sight: Sight, v: Array) -> Array:
        if oja_rate is not None:
            x, image = free_product(sight)
            v = unit(v + oja_rate * jnp.vdot(x, v) * unit(image))
        at = sight.w + sight.perturbation if perturbed else sight.w

        def refresh(v: Array) -> Array:
            return unit((1 - weight) * v + weight * unit(sight.product(at, v, part)))

        if every == 1:
            return refresh(v)
        refreshed: Array = jax.lax.cond(sight.step % every == 0, refresh, lambda v: v, v)
        return refreshed

    return update


def lanczos(products: int, every: int) -> Callable[[Sight, Array], Array]:
    """Rayleigh-Ritz in the Krylov space of the last vector, every so often."""

    def update(sight: Sight, v: Array) -> Array:
        def refresh(v: Array) -> Array:
            def grow(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
                basis, images = carry
                image = sight.product(sight.w, basis[i], 1.0)
                rest = image
                for _ in range(2):  # twice is enough for orthogonality in float32
                    rest = rest - basis.T @ (basis @ rest)
                return basis.at[i + 1].set(unit(rest)), images.at[i].set(image)

            basis = jnp.zeros((products + 1, v.size)).at[0].set(v)
            images = jnp.zeros((products, v.size))
            basis, images = jax.lax.fori_loop(0, products, grow, (basis, images))
            projected = basis[:-1] @ images.T
            ritz = jnp.linalg.eigh((projected + projected.T) / 2)[1][:, -1]
            return unit(ritz @ basis[:-1])

        refreshed: Array = jax.lax.cond(sight.step % every == 0, refresh, lambda v: v, v)
        return refreshed

    return update


def adaptive_oja(title: str, rate: float) -> Watcher:
    """Oja's rule with a step that has the right size of the error.

    A step of least squares on ``y = value <v, x> v``, relative to the average of ``<v, x>**2``.
    """

    def init(w: Array) -> tuple[Array, Array, Array]:
        return jnp.zeros_like(w), jnp.zeros(()), jnp.zeros(())

    def update(sight: Sight, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        v, value, energy = state
        x, y = free_product(sight)
        known = value > 0
        v, value = jnp.where(known, v, unit(y)), jnp.where(known, value, jnp.linalg.norm(y))
        along = jnp.vdot(x, v)
        energy = jnp.where(known, 0.95 * energy + 0.05 * along**2, along**2)
        weight = rate * along / jnp.maximum(energy, 1e-30)
        image = value * v + weight * (y - value * along * v)
        return unit(image), jnp.maximum(jnp.vdot(v, image), 1e-30), energy

    return Watcher(title, "free", 2.0, init, update, lambda state: state[0])


def ritz_on_pairs(title: str, size: int) -> Watcher:
    """Rayleigh-Ritz on the last free products, ``(x, Hx)`` of ``size`` steps."""

    def init(w: Array) -> tuple[Array, Array]:
        return jnp.zeros((size, w.size)), jnp.zeros((size, w.size))

    def update(sight: Sight, state: tuple[Array, Array]) -> tuple[Array, Array]:
        pair = free_product(sight)
        xs, ys = (jnp.roll(s, 1, axis=0).at[0].set(new) for s, new in zip(state, pair, strict=True))
        return xs, ys

    def vector(state: tuple[Array, Array]) -> Array:
        xs, ys = state
        gram = xs @ xs.T
        # The directions of neighbouring steps are alike: what they do not span is left out.
        values, basis = jnp.linalg.eigh(gram)
        inverse = jnp.where(values > 1e-3 * values[-1], 1 / jnp.sqrt(values), 0)
        whiten = basis * inverse[None, :]
        projected = whiten.T @ (xs @ ys.T) @ whiten
        ritz = jnp.linalg.eigh((projected + projected.T) / 2)[1][:, -1]
        return unit((whiten @ ritz) @ xs)

    return Watcher(title, "free", 2.0, init, update, vector)


def all_watchers() -> dict[str, Watcher]:
    """Everything that is compared, by name."""
    power, warm = power_iteration, {"warm_start": True}
    return {
        "paper": from_library("power iteration, p=100 q=5 (the paper)", "paper", 2.1, power()),
        "paper_warm": from_library("p=100 q=5, warm", "products", 2.1, power(**warm)),
        "p20": from_library("p=20 q=1, warm", "products", 2.1, power(20, 1, **warm)),
        "p5": from_library("p=5 q=1, warm", "products", 2.4, power(5, 1, **warm)),
        "lanczos": on_vector("Lanczos, 5 products every 100", "products", 2.1, lanczos(5, 100)),
        "p20_shared": on_vector(
            "p=20 q=1 at w+e", "shared", 2.05, averaged(every=20, perturbed=True)
        ),
        "p5_shared": on_vector("p=5 q=1 at w+e", "shared", 2.2, averaged(every=5, perturbed=True)),
        "p1_shared": on_vector(
            "every step at w+e, weight 0.1", "shared", 3.0, averaged(0.1, perturbed=True)
        ),
        "p1": on_vector("every step, weight 0.1", "products", 4.0, averaged(0.1)),
        "p5_part": from_library(
            "p=5 q=1 on 1/8 of the batch", "part", 2.05, power(5, 1, **warm), part=1 / 8
        ),
        "p1_part": on_vector(
            "every step on 1/20 of the batch, weight 0.1", "part", 2.1, averaged(0.1, part=1 / 20)
        ),
        "oja_part": on_vector(
            "Oja 0.1 and 1/20 of the batch, weight 0.1",
            "part",
            2.1,
            averaged(0.1, part=1 / 20, oja_rate=0.1),
        ),
        **{
            f"oja_{rate}": from_library(f"Oja {rate}", "free", 2.0, oja(rate))
            for rate in (0.1, 0.2, 0.3, 0.5)
        },
        "oja_adaptive": adaptive_oja("Oja, adaptive 0.1", 0.1),
        "ritz_pairs": ritz_on_pairs("Rayleigh-Ritz on 8 free pairs", 8),
        **{
            f"subspace_{size}": from_library(f"subspace of {size}", "free", 2.0, subspace(size))
            for size in (1, 2, 3, 4, 6)
        },
    }
