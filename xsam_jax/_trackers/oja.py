"""Oja's rule on the two gradients that SAM computes anyway."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from xsam_jax import _inner_products, _linalg
from xsam_jax._hyperparameters import constant
from xsam_jax._trackers.tracker import (
    Eigenpair,
    Projection,
    Tracker,
    free_product,
    product_norm,
)
from xsam_jax._two_gradients import Descent


def oja(rate: chex.Numeric = 0.3) -> Tracker:
    """Follows the eigenvector without any Hessian-vector product.

    SAM's gradients at w and at w + e give a product for free,
    ``(g_adv - g) / ||e|| = H e / ||e|| + O(||e||)``. With ``x = e / ||e||`` and
    ``h = Hx / ||Hx||`` every step makes ``v <- normalize(v + rate * <x, v> * h)``. In expectation
    ``<x, v> h`` is ``H E[x x' / ||Hx||] v``: a power iteration over mini-batches (Oja, 1982), on
    the identity plus a multiple of ``H E[x x' / ||Hx||]``. So it follows the largest eigenvalue and
    not, as power iteration on ``H`` does, the one of largest magnitude. It is that of ``H`` itself
    only as far as the gradients' directions ``x`` visit the leading eigenvector the most, since a
    step counts alike however large its ``Hx``: among directions that gradients visit one at a time
    the rule finds the one that is visited most often. (In training the gradient along an
    eigenvector grows with its eigenvalue; ``python -m experiments.tracking`` measures what is
    found.)

    Both gradients must be of the same loss, with the same random numbers: the masks of dropout with
    two keys differ by more than the curvature. Put the method first in the chain. A transformation
    before it that changes the gradient, such as weight decay or clipping, spoils the product. So
    does a radius near the rounding of the parameters, ``rho`` of ``1e-7 ||w||`` in float32: the
    difference of the gradients is then one of rounding errors. (Where it is nothing else, as for a
    linear loss, it counts as zero, and the vector stays as it was.)

    The eigenvalue comes from the same products: an eigenpair has ``<v, Hx> = value * <v, x>``, and
    the step ``value <- value + rate * <v, x> * (<v, Hx> - value * <v, x>)`` lessens the squared
    error. The first step has no vector to measure: it sets ``value = <x, Hx>``, the curvature along
    its own gradient, which lies between the smallest and the largest eigenvalue.

    Args:
      rate: weight of a step's product, > 0. Below 1 no step can cancel the vector; from 2 on the
        eigenvalue may diverge. It may be traced.

    Returns:
      A tracker for `xsam` and `eigen_sam`.

    Raises:
      TypeError, ValueError: ``rate`` is not a positive number.

    Example:
      >>> import xsam_jax
      >>> tx = xsam_jax.xsam(eigenvector=xsam_jax.oja())
    """
    rate = constant("rate", rate, low=0.0, ends="()")

    def after(step: Descent, pair: Eigenpair) -> tuple[Eigenpair, Projection]:
        x, product = free_product(step)
        v = pair.vector
        squared_size, along, known, quotient, seen = _inner_products.vdots(
            (product, product), (x.tree, v), (v, v), (v, product), (x.tree, product)
        )
        size, along = product_norm(step, x, squared_size, product), x.scale * along

        weight = _linalg.ratio(jnp.where(known == 0, 1, rate * along), size)
        # ||v + weight * Hx|| by its inner products: the sum itself is passed over only once.
        squared = known + 2 * weight * quotient + (weight * size) ** 2
        norm = _linalg.root(jnp.maximum(squared, 0))
        vector = _linalg.combine(
            (_linalg.reciprocal(norm), v), (_linalg.ratio(weight, norm), product)
        )

        value = pair.value.astype(size.dtype)
        # At first h stands for v: <x, h> <h, Hx>.
        first = x.scale * seen
        value = jnp.where(known == 0, first, value + rate * along * (quotient - value * along))
        # Finite gradients whose difference, divided by a small ||e||, has no finite square.
        value = jnp.where(jnp.isfinite(squared), value, jnp.nan)
        vector, value = _linalg.cast_like(vector, v), value.astype(jnp.float32)

        def projection() -> chex.Array:
            of_v, of_product = _inner_products.vdots((step.grads_adv, v), (step.grads_adv, product))
            new = _linalg.ratio(of_v + weight * of_product, norm)
            return jnp.where(jnp.isfinite(value), new, of_v)

        return pair._replace(vector=vector, value=value), projection

    return Tracker(after=after, free=True, constants=(rate,), name=f"oja(rate={rate})")
