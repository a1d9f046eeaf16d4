"""F-SAM, friendly SAM: SAM that perturbs along the mini-batch's noise."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax.numpy as jnp
import optax

from xsam_jax import _linalg
from xsam_jax._checks import AxisName
from xsam_jax._hyperparameters import ScalarOrSchedule, constant, nan_with, schedule
from xsam_jax._two_gradients import Ascent, two_gradients


class FriendlySAMState(NamedTuple):
    """State of `friendly_sam`.

    Attributes:
      count: steps taken, int32[].
      mean: exponential moving average of the gradients, a tree like the parameters; float32, or
        float64 for float64 parameters.
    """

    count: chex.Array
    mean: chex.ArrayTree


def friendly_sam(
    rho: ScalarOrSchedule = 0.05,
    sigma: ScalarOrSchedule = 1.0,
    decay: chex.Numeric = 0.9,
    *,
    axis_name: AxisName = None,
    per_device: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """F-SAM: SAM perturbed along the mini-batch's own noise, without the full gradient.

    With ``m`` the moving average of the gradients of the steps before, which stands for the full
    gradient, the perturbation is::

        n = g - sigma * m
        e = rho * n / ||n||

    and then ``m <- decay * m + (1 - decay) * g``. The first step has no ``m``: it is SAM's and sets
    ``m = g``. The direction is the gradient at ``w + e``.

    Args:
      rho: radius of the perturbation, >= 0, or a schedule ``count -> radius``; may be traced.
      sigma: share of the average that is taken away, >= 0, or a schedule; may be traced. 0 is SAM.
      decay: decay of the average (lambda in the paper), in [0, 1]; may be traced.
      axis_name: name of a `jax.shard_map` axis to average gradients over.
      per_device: perturb with each device's own gradient (m-sharpness), see `sam`.

    Returns:
      A transformation with ``update(updates, state, params, *, grad_fn)``.

    Raises:
      TypeError, ValueError: an argument that is out of its range.

    Example:
      >>> import optax, xsam_jax
      >>> tx = optax.chain(xsam_jax.friendly_sam(rho=0.05), optax.sgd(0.1, momentum=0.9))

    References:
      Li et al., `Friendly Sharpness-Aware Minimization <https://arxiv.org/abs/2403.12350>`_, 2024.
      The average is taken before the step's own gradient enters it, as in the reference code.
    """
    decay = constant("decay", decay, low=0.0, high=1.0)
    radius = nan_with(schedule("rho", rho), decay)
    share = schedule("sigma", sigma)

    def init(params: chex.ArrayTree) -> FriendlySAMState:
        return FriendlySAMState(jnp.zeros([], jnp.int32), _linalg.zeros_like(params))

    def ascent(step: Ascent, state: FriendlySAMState) -> tuple[_linalg.Scaled, FriendlySAMState]:
        noise = _linalg.combine((1, step.own), (-share(state.count), state.mean))
        # Not by the count, which goes on in a step that is not finite.
        weight = jnp.where(_linalg.norm(state.mean) == 0, 0, decay)
        mean = _linalg.combine((weight, state.mean), (1 - weight, step.grads))
        mean = _linalg.cast_like(mean, state.mean)
        perturbation = _linalg.scaled_to(radius(state.count), noise, checked=True)
        return perturbation, state._replace(mean=mean)

    return two_gradients(init=init, ascent=ascent, axis_name=axis_name, per_device=per_device)
