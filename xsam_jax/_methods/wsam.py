"""WSAM, coupled with the base optimizer and decoupled from it."""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import optax

from xsam_jax import _checks, _linalg
from xsam_jax._checks import AxisName
from xsam_jax._hyperparameters import ScalarOrSchedule, constant, nan_with, schedule
from xsam_jax._two_gradients import Descent, SAMState, kept, sam_ascent, two_gradients


class WSAMDecoupledState(NamedTuple):
    """State of `wsam_decoupled`.

    Attributes:
      count: steps taken, int32[].
      base: state of the base optimizer.
      base_count: steps that the base optimizer took, int32[]: those whose gradients were finite.
    """

    count: chex.Array
    base: chex.ArrayTree
    base_count: chex.Array


def wsam(
    rho: ScalarOrSchedule = 0.05,
    gamma: chex.Numeric = 0.9,
    *,
    axis_name: AxisName = None,
    per_device: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """WSAM: the loss plus a weighted sharpness, the rise of the loss within the ball.

    With ``g_adv`` the gradient at ``w + rho * g / ||g||`` and ``a = gamma / (1 - gamma)`` the
    direction is::

        d = a * g_adv + (1 - a) * g

    ``gamma = 1/2`` is SAM, ``gamma = 0`` the base optimizer. This is the reference code's
    ``decouple=False``: the base optimizer sees the sum.

    Args:
      rho: radius of the perturbation, >= 0, or a schedule ``count -> radius``; may be traced.
      gamma: weight of the sharpness, in [0, 1); may be traced.
      axis_name: name of a `jax.shard_map` axis to average gradients over.
      per_device: perturb with each device's own gradient (m-sharpness), see `sam`.

    Returns:
      A transformation with ``update(updates, state, params, *, grad_fn)``.

    Raises:
      TypeError, ValueError: an argument that is out of its range.

    Example:
      >>> import optax, xsam_jax
      >>> tx = optax.chain(xsam_jax.wsam(rho=0.05, gamma=0.9), optax.adamw(1e-3))

    References:
      Yue et al., `Sharpness-Aware Minimization Revisited: Weighted Sharpness as a Regularization
      Term <https://arxiv.org/abs/2305.15817>`_, 2023.
    """
    radius = schedule("rho", rho)
    sharpness = _sharpness_weight(gamma)

    def descent(step: Descent, state: SAMState) -> tuple[chex.ArrayTree, SAMState]:
        return _linalg.combine((sharpness, step.grads_adv), (1 - sharpness, step.grads)), state

    return two_gradients(
        ascent=sam_ascent(radius), descent=descent, axis_name=axis_name, per_device=per_device
    )


def wsam_decoupled(
    base: optax.GradientTransformation,
    learning_rate: ScalarOrSchedule,
    rho: ScalarOrSchedule = 0.05,
    gamma: chex.Numeric = 0.9,
    *,
    axis_name: AxisName = None,
    per_device: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """WSAM whose sharpness term is a plain gradient step beside the base optimizer.

    The base optimizer, with its momentum and decay, sees only ``g``; the sharpness term gets none
    of them. With ``eta`` the learning rate and ``a = gamma / (1 - gamma)`` the update is::

        d = base(g) - eta * a * (g_adv - g)

    This is the form of the WSAM paper and its reference code's default.

    Args:
      base: the base optimizer, complete with its learning rate.
      learning_rate: that of the sharpness term, >= 0, or a schedule of the steps that the base
        optimizer took; usually the base optimizer's own. So after a step that is not finite, which
        leaves the base optimizer's state as it was, the two schedules stay in step. (The schedule
        of ``rho`` counts every step, as in all methods. A base optimizer that leaves out steps by
        itself, such as `optax.MultiSteps` and `optax.apply_if_finite`, counts fewer: put such a
        wrapper around the whole.) It may be traced.
      rho: radius of the perturbation, >= 0, or a schedule ``count -> radius``; may be traced.
      gamma: weight of the sharpness, in [0, 1); may be traced.
      axis_name: name of a `jax.shard_map` axis to average gradients over.
      per_device: perturb with each device's own gradient (m-sharpness), see `sam`.

    Returns:
      A whole optimizer with ``update(updates, state, params, *, grad_fn, **extra_args)``; what it
      does not take itself (``grad_fn``, ``curvature_grad_fn``, ``refresh``) goes to the base
      optimizer.

    Raises:
      TypeError, ValueError: an argument that is out of its range.

    Example:
      >>> import optax, xsam_jax
      >>> tx = xsam_jax.wsam_decoupled(optax.sgd(0.1, momentum=0.9), learning_rate=0.1)

    References:
      Yue et al., 2023, Algorithm 1; see `wsam`.
    """
    _checks.instance("base", base, optax.GradientTransformation, "an optax transformation")
    base = optax.with_extra_args_support(base)
    rate = schedule("learning_rate", learning_rate)
    sharpness = _sharpness_weight(gamma)
    radius = nan_with(schedule("rho", rho), sharpness)

    def init(params: chex.ArrayTree) -> WSAMDecoupledState:
        # Arrays of their own: one that is donated must occur once.
        counts = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32)
        return WSAMDecoupledState(counts[0], base.init(params), counts[1])

    def descent(
        step: Descent, state: WSAMDecoupledState
    ) -> tuple[chex.ArrayTree, WSAMDecoupledState]:
        updates, base_state = base.update(step.grads, state.base, step.params, **step.extra_args)
        size = sharpness * rate(state.base_count)
        update = _linalg.combine((1, updates), (-size, step.grads_adv), (size, step.grads))
        base_count = optax.safe_increment(state.base_count)
        return update, kept(step, state._replace(base=base_state, base_count=base_count))

    return two_gradients(
        init=init,
        ascent=sam_ascent(radius),
        descent=descent,
        axis_name=axis_name,
        per_device=per_device,
    )


def _sharpness_weight(gamma: chex.Numeric) -> Any:
    gamma = constant("gamma", gamma, low=0.0, high=1.0, ends="[)")
    return gamma / (1 - gamma)
