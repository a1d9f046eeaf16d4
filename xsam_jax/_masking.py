"""Gradient functions for transformations that see only a part of the parameters."""

from typing import Any

import chex
import jax
import optax

from xsam_jax import _checks
from xsam_jax.curvature._hvp import GradFn

MASKED_NOTE = (
    "The transformation stands inside optax.masked or optax.partition, so it hands {name} "
    "parameters with optax.MaskedNode in place of the others: give "
    "update(..., {name}=xsam_jax.masked_grad_fn({name}, params))"
)


def masked_grad_fn(grad_fn: GradFn, params: chex.ArrayTree) -> GradFn:
    """Makes ``grad_fn`` accept the partial trees of `optax.masked` and `optax.partition`.

    Inside of them a method perturbs only its own leaves, and its norms count only those. It asks
    for the gradient at a tree in which the other leaves are `optax.MaskedNode`; here these come
    from ``params``, and the gradient is masked in the same way.

    Args:
      grad_fn: ``params -> gradient`` on whole trees.
      params: the step's parameters, a whole tree.

    Returns:
      ``partial tree -> partial gradient``.

    Raises:
      TypeError: ``grad_fn`` is not a function.

    Example:
      >>> import jax, jax.numpy as jnp, optax, xsam_jax
      >>> w = {"kernel": jnp.ones(2), "bias": jnp.ones(2)}
      >>> grad_fn = jax.grad(lambda w: jnp.sum(w["kernel"] ** 2 * w["bias"]))
      >>> tx = optax.masked(xsam_jax.sam(rho=1.0), {"kernel": True, "bias": False})
      >>> updates, _ = tx.update(
      ...     grad_fn(w), tx.init(w), w, grad_fn=xsam_jax.masked_grad_fn(grad_fn, w))
      >>> updates["bias"]  # the plain gradient
      Array([1., 1.], dtype=float32)
    """
    _checks.function("grad_fn", grad_fn, "params -> gradient")

    def partial_grad_fn(partial: chex.ArrayTree) -> chex.ArrayTree:
        def merge(leaf: Any, whole: chex.ArrayTree) -> chex.ArrayTree:
            return whole if _is_masked(leaf) else leaf

        def mask(leaf: Any, gradient: chex.ArrayTree) -> chex.ArrayTree:
            return leaf if _is_masked(leaf) else gradient

        gradient = grad_fn(jax.tree.map(merge, partial, params, is_leaf=_is_masked))
        return jax.tree.map(mask, partial, gradient, is_leaf=_is_masked)

    return partial_grad_fn


def has_masked(tree: chex.ArrayTree) -> bool:
    """Whether `optax.masked` has taken leaves out of ``tree``."""
    return any(_is_masked(leaf) for leaf in jax.tree.leaves(tree, is_leaf=_is_masked))


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)
