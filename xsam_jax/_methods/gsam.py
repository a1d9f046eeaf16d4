"""GSAM: SAM that lessens the surrogate gap as well."""

from __future__ import annotations

import chex
import jax.numpy as jnp
import optax

from xsam_jax import _inner_products, _linalg
from xsam_jax._checks import AxisName
from xsam_jax._hyperparameters import ScalarOrSchedule, schedule
from xsam_jax._two_gradients import Descent, SAMState, sam_ascent, two_gradients


def gsam(
    rho: ScalarOrSchedule = 0.05,
    alpha: ScalarOrSchedule = 0.4,
    *,
    axis_name: AxisName = None,
    per_device: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """GSAM: lessens the perturbed loss and the surrogate gap between it and the loss.

    With ``g_adv`` the gradient at ``w + rho * g / ||g||``, the part of ``g`` that is orthogonal to
    ``g_adv`` changes the loss but, to first order, not the perturbed loss. A step up along it
    closes the gap between them::

        d = g_adv - alpha * (g - <g, g_adv> / ||g_adv||**2 * g_adv)

    Args:
      rho: radius of the perturbation, >= 0, or a schedule ``count -> radius``; may be traced. The
        GSAM paper shrinks it with the learning rate: give both the same schedule. (Its reference
        code lets the learning rate lag the radius by one step; the two schedules here count alike.)
      alpha: weight of the orthogonal part, >= 0, or a schedule; may be traced.
      axis_name: name of a `jax.shard_map` axis to average gradients over.
      per_device: perturb with each device's own gradient (m-sharpness), see `sam`.

    Returns:
      A transformation with ``update(updates, state, params, *, grad_fn)``.

    Raises:
      TypeError, ValueError: an argument that is out of its range.

    Example:
      >>> import optax, xsam_jax
      >>> schedule = optax.cosine_decay_schedule(0.1, decay_steps=1000)
      >>> tx = optax.chain(xsam_jax.gsam(rho=schedule, alpha=0.4), optax.sgd(schedule))

    References:
      Zhuang et al., `Surrogate Gap Minimization Improves Sharpness-Aware Training
      <https://arxiv.org/abs/2203.08065>`_, 2022.
    """
    radius = schedule("rho", rho)
    weight = schedule("alpha", alpha)

    def descent(step: Descent, state: SAMState) -> tuple[chex.ArrayTree, SAMState]:
        g, g_adv = step.grads, step.grads_adv
        size = _linalg.norm(g_adv)
        parallel = _linalg.ratio(_linalg.ratio(_inner_products.vdot(g, g_adv), size), size)
        orthogonal = _linalg.combine((1, g), (-parallel, g_adv))
        # No part of a gradient that counts as zero: its inner product is lost, too.
        strength = jnp.where(_linalg.norm(g) == 0, 0, weight(state.count))
        return _linalg.combine((1, g_adv), (-strength, orthogonal)), state

    return two_gradients(
        ascent=sam_ascent(radius), descent=descent, axis_name=axis_name, per_device=per_device
    )
