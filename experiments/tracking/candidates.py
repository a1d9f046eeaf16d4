"""The trackers that are compared, and what each costs in gradients per step.

The unit is one gradient of the step's mini-batch. SAM itself is 2. A Hessian-vector product is 2: a
gradient and its tangent. At the perturbed point SAM computes the gradient anyway, so there a
product is 1, its tangent, and so is a difference from the gradient that SAM has. A product of a
part of the batch costs that part. Vector arithmetic is not counted.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from experiments.tracking.watcher import Sight, Watcher, free_product, from_library, on_vector, unit
from xsam_jax import Eigenpair, Tracker, oja, power_iteration, subspace

Array = jax.Array


def refreshed(sight: Sight, every: int, refresh: Callable[[Array], Array], v: Array) -> Array:
    """Refresh the vector in steps 0, ``every``, ``2 every``, ... and keep it in the others."""
    if every == 1:
        return refresh(v)
    chosen: Array = jax.lax.cond(sight.step % every == 0, refresh, lambda v: v, v)
    return chosen


def averaged(
    weight: float = 1.0,
    *,
    every: int = 1,
    part: float = 1.0,
    perturbed: bool = False,
    oja_rate: float | None = None,
) -> Callable[[Sight, Array], Array]:
    """Average products: ``v <- normalize((1 - weight) v + weight Hv / ||Hv||)``, every so often.

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

        return refreshed(sight, every, refresh, v)

    return update


def differences(every: int) -> Callable[[Sight, Array], Array]:
    """Power iteration whose products are differences of two gradients.

    Over SAM's radius: a shorter one meets few of a ReLU network's kinks, each of which weighs more.
    """

    def update(sight: Sight, v: Array) -> Array:
        def refresh(v: Array) -> Array:
            radius = jnp.linalg.norm(sight.perturbation)
            return unit(sight.gradient(sight.w + radius * v) - sight.grads)

        return refreshed(sight, every, refresh, v)

    return update


def on_exact_products(title: str, tracker: Tracker) -> Watcher:
    """Give a tracker of the library the exact product ``Hx`` in the place of SAM's difference."""
    watcher = from_library(title, "products", 4.0, tracker)

    def update(sight: Sight, pair: Eigenpair) -> Eigenpair:
        image = sight.product(sight.w, sight.perturbation, 1.0)
        pair = watcher.update(sight._replace(grads_adv=sight.grads + image), pair)
        return pair

    return watcher._replace(update=update)


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

        return refreshed(sight, every, refresh, v)

    return update


def adaptive_oja(title: str, rate: float) -> Watcher:
    """Oja's rule with a step size from least squares.

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


def authors(every: int, mode: str = "evaluation") -> Watcher:
    """Power iteration with the schedule of X-SAM's published code."""
    evaluation = mode == "evaluation"
    words = "" if evaluation else ", training"
    watcher = from_library(
        f"p={every} q=5, warm: X-SAM's authors'{words}",
        "authors",
        2 + 2 * 5 / every,
        power_iteration(every),
        evaluation=evaluation,
        label=f"authors' p={every}{words}",
    )
    return watcher._replace(two_modes=not evaluation)


def all_watchers() -> dict[str, Watcher]:
    """Make all trackers that are compared, by name."""
    power = power_iteration
    return {
        "authors_p5": authors(5),
        "authors_p3": authors(3),
        "authors_p5_training": authors(5, "training"),
        "authors_p3_training": authors(3, "training"),
        "p100": from_library(
            "p=100 q=5, cold", "products", 2.1, power(100, warm_start=False), label="p=100, cold"
        ),
        "p100_warm": from_library("p=100 q=5, warm", "products", 2.1, power(100)),
        "p20": from_library("p=20 q=1, warm", "products", 2.1, power(20, 1)),
        "p5": from_library("p=5 q=1, warm", "products", 2.4, power(5, 1), label="p=5 q=1"),
        "lanczos": on_vector("Lanczos, 5 products every 100", "products", 2.1, lanczos(5, 100)),
        "p20_shared": on_vector(
            "p=20 q=1 at w+e", "shared", 2.05, averaged(every=20, perturbed=True)
        ),
        "p5_shared": on_vector("p=5 q=1 at w+e", "shared", 2.2, averaged(every=5, perturbed=True)),
        "p1_shared": on_vector(
            "every step at w+e, weight 0.1", "shared", 3.0, averaged(0.1, perturbed=True)
        ),
        "p1": on_vector("every step, weight 0.1", "products", 4.0, averaged(0.1)),
        "p20_difference": on_vector("p=20 q=1, differences", "products", 2.05, differences(20)),
        "p5_q5_part": from_library(
            "p=5 q=5 on 1/4 of the batch", "part", 2.5, power(5), part=1 / 4
        ),
        "p5_part": from_library(
            "p=5 q=1 on 1/8 of the batch", "part", 2.05, power(5, 1), part=1 / 8
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
            f"oja_{rate}": from_library(
                f"Oja {rate}", "free", 2.0, oja(rate), label="oja()" if rate == 0.3 else ""
            )
            for rate in (0.1, 0.2, 0.3, 0.5)
        },
        "oja_adaptive": adaptive_oja("Oja, adaptive 0.1", 0.1),
        "ritz_pairs": ritz_on_pairs("Rayleigh-Ritz on 8 free pairs", 8),
        **{
            f"subspace_{size}": from_library(
                f"subspace of {size}",
                "free",
                2.0,
                subspace(size),
                label="subspace()" if size == 4 else "",
            )
            for size in (1, 2, 3, 4, 6)
        },
        "subspace_exact": on_exact_products("subspace of 4, exact products", subspace()),
    }
