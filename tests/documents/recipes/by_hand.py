"""SAM as its paper writes it, to compare recipes with."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import optax

# The method of a recipe, for which `run` puts another.
XSAM = "xsam(eigenvector=oja())"


def sam_gradient(
    gradient: Callable[..., chex.ArrayTree], params: chex.ArrayTree, rho: float, *rest: Any
) -> chex.ArrayTree:
    """The gradient at ``w + rho * g / ||g||``; ``gradient`` takes the parameters and the rest."""
    g = gradient(params, *rest)
    size = rho / optax.tree.norm(g)
    return gradient(jax.tree.map(lambda w, g: w + size * g, params, g), *rest)


def descend(
    base: optax.GradientTransformation,
    grads: chex.ArrayTree,
    state: chex.ArrayTree,
    params: chex.ArrayTree,
) -> tuple[chex.ArrayTree, chex.ArrayTree]:
    """One step of the base optimizer."""
    updates, state = base.update(grads, state, params)
    return optax.apply_updates(params, updates), state
