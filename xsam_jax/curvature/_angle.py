"""Angle between a gradient and an eigenvector."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from xsam_jax import _checks, _linalg, _placement


def angle(grads: chex.ArrayTree, v: chex.ArrayTree, *, layerwise: bool = False) -> chex.Array:
    """Angle between a gradient and an eigenvector (paper, Section 4.1 and Figure 1).

    ``layerwise=True`` is the paper's measure as its text reads: the gradient tensor of each layer,
    that is each leaf, is divided by its own norm, and then all are concatenated; the eigenvector's
    tensors are concatenated as they are. So a layer weighs by its part of the eigenvector and not
    of the gradient, and the angle of a vector with itself is 0 only if its layers' norms are equal.

    Differentiable in forward and reverse mode with respect to both. Where the angle has a kink, at
    0 and 180 degrees, and where one of the two is zero, the derivative is 0.

    Args:
      grads: The gradient; in the paper that of SAM's second pass.
      v: The eigenvector, a tree like ``grads``, of any norm. Its sign is arbitrary, and with it
        whether the angle is x or 180 - x.
      layerwise: Normalise each leaf of ``grads`` first.

    Returns:
      Degrees in [0, 180], a scalar of float32 or float64; 90 if one of the two is zero, 0 if both.

    Raises:
      ValueError: ``v`` is not a tree like ``grads``.
      TypeError: ``layerwise`` is not a bool.

    Example:
      >>> import jax.numpy as jnp
      >>> from xsam_jax import curvature
      >>> grads = {"kernel": jnp.array([8.0]), "bias": jnp.array([6.0])}
      >>> v = {"kernel": jnp.array([1.0]), "bias": jnp.array([0.0])}
      >>> plain, layerwise = (curvature.angle(grads, v, layerwise=way) for way in (False, True))
      >>> round(float(plain), 2), round(float(layerwise), 2)
      (36.87, 45.0)
    """
    _checks.boolean("layerwise", layerwise)
    _checks.real("grads", grads)
    _checks.same_tree("v", v, grads, "grads")
    _checks.real("v", v)
    if layerwise:
        grads = jax.tree.map(_linalg.unit_at_any_scale, grads)
    a, b = _linalg.unit_at_any_scale(grads), _linalg.unit_at_any_scale(v)
    b = _placement.shard_like(b, a)
    # Kahan's formula: the arc cosine loses half the digits near 0 and 180.
    difference = _linalg.norm(_linalg.combine((1, a), (-1, b)))
    total = _linalg.norm(_linalg.combine((1, a), (1, b)))
    # Without a direction there is no derivative either.
    none = (difference == 0) & (total == 0)
    return jnp.rad2deg(2 * jnp.arctan2(difference, jnp.where(none, 1, total)))
