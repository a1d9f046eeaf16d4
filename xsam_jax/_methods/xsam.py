"""X-SAM: SAM whose direction is normalised and corrected along the dominant eigenvector."""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from xsam_jax import _checks, _linalg
from xsam_jax._checks import AxisName
from xsam_jax._hyperparameters import ScalarOrSchedule, nan_with, schedule
from xsam_jax._trackers.power_iteration import power_iteration
from xsam_jax._trackers.tracker import (
    Tracker,
    after_step,
    check_tracker,
    pair_of,
    projected,
    with_pair,
)
from xsam_jax._two_gradients import Ascent, Descent, kept, two_gradients


class XSAMState(NamedTuple):
    """State of `xsam`.

    Attributes:
      count: steps taken, int32[].
      eigenvector: estimate of the Hessian's dominant eigenvector, a tree like the parameters;
        float32, or float64 for float64 parameters. Norm one, or zero before the first estimate.
      eigenvalue: its eigenvalue, float32[]; the tracker's docstring says how it is estimated.
      alignment: cosine of the angle between the gradient at the perturbed parameters and the
        eigenvector at the last step, float32[], in [-1, 1].
      memory: what else the tracker keeps: `power_iteration` the step count from which the next
        refresh is due, int32[], `subspace` its basis, `oja` nothing.
    """

    count: chex.Array
    eigenvector: chex.ArrayTree
    eigenvalue: chex.Array
    alignment: chex.Array
    memory: Any = ()


def xsam(
    rho: ScalarOrSchedule = 0.05,
    alpha: ScalarOrSchedule = 0.2,
    *,
    eigenvector: Tracker = power_iteration(),
    correction: Literal["signed", "projector"] = "signed",
    normalize: bool = True,
    axis_name: AxisName = None,
    per_device: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """X-SAM: SAM's gradient, normalised, and corrected along the Hessian's dominant eigenvector.

    With ``g_adv`` the gradient at ``w + rho * g / ||g||`` and ``v`` the eigenvector (paper,
    Algorithm 2)::

        u = g_adv / ||g_adv||                             (Eq. 9)
        d = u - alpha * sign(<g_adv, v>) * <u, v> * v     (Eq. 10, 11)

    Eq. 11 depends on the sign of ``v``, which is arbitrary: where ``<u, v> < 0`` it makes the
    component grow, to ``1 + alpha`` times its size, where it is positive it leaves ``1 - alpha`` of
    it. ``correction="projector"`` is ``d = u - alpha * <u, v> * v``, the operator of Theorem 5.1,
    which attenuates both.

    Args:
      rho: radius of the perturbation, >= 0, or a schedule ``count -> radius``; may be traced.
      alpha: strength of the correction, in [0, 2] as in Theorem 5.1, or a schedule; may be traced.
        With a good eigenvector alpha = 1 takes away all descent along it, above 1 the step climbs,
        and training can diverge (Eq. 11 wherever ``<u, v> > 0``): the safe range is alpha < 1, and
        a constant outside it warns. The paper finds its best results at 0.2, and 0.1 to 0.4 stable.
      eigenvector: tracker of the eigenvector, `power_iteration`, `oja` or `subspace`. The default
        is the schedule of the authors' code, but it counts the steps of all epochs and has its
        first refresh in the first one. (Theirs begins to count anew in each epoch, and refreshes in
        its step ``every + 1``, ``2 * every + 1``, ... The steps before the first refresh are SAM's,
        not normalised.) Their Hessian products are those of the network in evaluation mode: give
        ``curvature_grad_fn``.
      correction: ``"signed"`` is Eq. 11, which the authors' code has too, ``"projector"`` Theorem
        5.1's.
      normalize: normalise the gradient (Eq. 9); Theorem 5.1 does not.
      axis_name: name of a `jax.shard_map` axis to average gradients and Hessian products over.
      per_device: perturb with each device's own gradient (m-sharpness), see `sam`; the eigenvector
        is that of all examples. `oja` and `subspace` refuse it: their product is that of one
        perturbation for all devices.

    Returns:
      A transformation with ``update(updates, state, params, *, grad_fn, curvature_grad_fn=None,
      refresh=None)`` and state `XSAMState`: ``updates`` is the gradient at ``params``,
      ``grad_fn(params)`` the gradient of the same mini-batch, ``curvature_grad_fn`` a gradient for
      Hessian products only, such as that of fewer examples, and ``refresh`` whether
      `power_iteration` computes a new eigenvector, where that is not left to it. (`oja` and
      `subspace` take no products and look at neither.) With ``alpha=0, normalize=False`` it is SAM,
      with the curvature watched. For what is not finite see `sam`.

    Raises:
      TypeError, ValueError: an argument that is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optax, xsam_jax
      >>> grad_fn = jax.grad(lambda w: 5 * w[0] ** 2 + w[1] ** 2)
      >>> w = jnp.array([1.0, 1.0])
      >>> optimizer = optax.chain(xsam_jax.xsam(rho=0.1), optax.sgd(0.1, momentum=0.9))
      >>> state = optimizer.init(w)
      >>> for _ in range(3):
      ...     updates, state = optimizer.update(grad_fn(w), state, w, grad_fn=grad_fn)
      ...     w = optax.apply_updates(w, updates)
      >>> f"{state[0].eigenvalue:.4f}"
      '10.0000'

    References:
      Duan et al., *X-SAM: Boosting Sharpness-Aware Minimization with Dominant-Eigenvector Gradient
      Correction*.
    """
    strength = schedule("alpha", alpha, high=2.0)
    check_tracker(eigenvector, per_device)
    radius = nan_with(schedule("rho", rho), *eigenvector.constants)
    _checks.choice("correction", correction, ("signed", "projector"))
    _checks.boolean("normalize", normalize)
    if not callable(alpha) and not isinstance(alpha, jax.core.Tracer):
        _warn_of_no_descent(float(alpha))

    def init(params: chex.ArrayTree) -> XSAMState:
        vector, value, memory = eigenvector.init(params)
        return XSAMState(
            jnp.zeros([], jnp.int32), vector, value, jnp.zeros([], jnp.float32), memory
        )

    def ascent(step: Ascent, state: XSAMState) -> tuple[_linalg.Scaled, XSAMState]:
        pair = eigenvector.before(step, pair_of(state), state.count)
        return _linalg.scaled_to(radius(state.count), step.own), with_pair(state, pair)

    def descent(step: Descent, state: XSAMState) -> tuple[chex.ArrayTree, XSAMState]:
        step, pair, known = after_step(eigenvector, step, pair_of(state))
        state = kept(step, with_pair(state, pair))
        v = state.eigenvector
        projection = projected(step, v, known)
        norm = _linalg.norm(step.grads_adv)
        divisor = norm if normalize else jnp.ones_like(norm)
        along = jnp.abs(projection) if correction == "signed" else projection
        # Eq. 9 to 11 in one pass: g_adv / ||g_adv|| - (alpha * |<g_adv, v>| / ||g_adv||) * v.
        removed = _linalg.ratio(jnp.asarray(strength(state.count), along.dtype) * along, divisor)
        direction = _linalg.combine((_linalg.reciprocal(divisor), step.grads_adv), (-removed, v))
        alignment = _linalg.ratio(projection, norm).astype(jnp.float32)
        alignment = jnp.clip(alignment, -1, 1)  # beyond by rounding
        return direction, state._replace(
            alignment=jnp.where(step.finite, alignment, state.alignment)
        )

    return two_gradients(
        init=init, ascent=ascent, descent=descent, axis_name=axis_name, per_device=per_device
    )


def _warn_of_no_descent(alpha: float) -> None:
    if alpha >= 1:
        warnings.warn(
            f"alpha = {alpha:g} leaves no descent along the eigenvector, and training can diverge: "
            "the safe range is alpha < 1. (The paper's Theorem 5.1 allows [0, 2], its experiments "
            "find 0.1 to 0.4 stable.)",
            UserWarning,
            stacklevel=3,
        )
