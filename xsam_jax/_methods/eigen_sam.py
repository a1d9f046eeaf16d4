"""Eigen-SAM: SAM that perturbs along the Hessian's dominant eigenvector as well."""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import optax

from xsam_jax import _inner_products, _linalg
from xsam_jax._checks import AxisName
from xsam_jax._hyperparameters import ScalarOrSchedule, nan_with, schedule
from xsam_jax._trackers.power_iteration import power_iteration
from xsam_jax._trackers.tracker import Tracker, after_step, check_tracker, pair_of, with_pair
from xsam_jax._two_gradients import Ascent, Descent, kept, two_gradients


class EigenSAMState(NamedTuple):
    """State of `eigen_sam`; the fields are those of `XSAMState` but for ``alignment``.

    Attributes:
      count: steps taken, int32[].
      eigenvector: tree like the parameters, float32 or float64.
      eigenvalue: float32[].
      memory: the tracker's.
    """

    count: chex.Array
    eigenvector: chex.ArrayTree
    eigenvalue: chex.Array
    memory: Any = ()


def eigen_sam(
    rho: ScalarOrSchedule = 0.05,
    alpha: ScalarOrSchedule = 0.2,
    *,
    eigenvector: Tracker = power_iteration(every=100),
    axis_name: AxisName = None,
    per_device: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Eigen-SAM: SAM whose perturbation leans towards the dominant eigenvector.

    With ``v`` the eigenvector and ``u = g / ||g||`` the perturbation is::

        e = rho * (u + alpha * sign(<g, v>) * (v - <u, v> * u))

    and the direction the gradient at ``w + e``. As in the reference code, ``e`` is not normalised
    again: its length is ``rho * sqrt(1 + alpha**2 * (1 - <u, v>**2))``.

    Args:
      rho: radius of the perturbation, >= 0, or a schedule ``count -> radius``; may be traced.
      alpha: weight of the eigenvector, >= 0, or a schedule; may be traced.
      eigenvector: tracker of the eigenvector; the default is the reference code's schedule, but
        it counts the steps of all epochs and has its first refresh in the first one. (The
        reference code begins to count anew in each epoch and has none until step ``every + 1``. It
        perturbs by ``rho * g`` until then, not normalised: we take that for an oversight.)
      axis_name: name of a `jax.shard_map` axis to average gradients and Hessian products over.
      per_device: perturb with each device's own gradient (m-sharpness), see `sam`; the eigenvector
        is that of all examples. `oja` and `subspace` refuse it: their product is that of one
        perturbation for all devices.

    Returns:
      A transformation with ``update(updates, state, params, *, grad_fn, curvature_grad_fn=None,
      refresh=None)``, as that of `xsam`, and state `EigenSAMState`.

    Raises:
      TypeError, ValueError: an argument that is out of its range.

    Example:
      >>> import optax, xsam_jax
      >>> tx = optax.chain(xsam_jax.eigen_sam(rho=0.05, alpha=0.2), optax.sgd(0.1, momentum=0.9))

    References:
      Luo et al., `Explicit Eigenvalue Regularization Improves Sharpness-Aware Minimization
      <https://arxiv.org/abs/2501.12666>`_, 2024.
    """
    weight = schedule("alpha", alpha)
    check_tracker(eigenvector, per_device)
    radius = nan_with(schedule("rho", rho), *eigenvector.constants)

    def init(params: chex.ArrayTree) -> EigenSAMState:
        return EigenSAMState(jnp.zeros([], jnp.int32), *eigenvector.init(params))

    def ascent(step: Ascent, state: EigenSAMState) -> tuple[_linalg.Scaled, EigenSAMState]:
        pair = eigenvector.before(step, pair_of(state), state.count)
        u = _linalg.unit(step.own)
        along = _inner_products.vdot(u, pair.vector)
        lean = jnp.asarray(weight(state.count), along.dtype) * jnp.sign(along)
        direction = _linalg.combine((1 - lean * along, u), (lean, pair.vector))
        length = jnp.asarray(radius(state.count), along.dtype)
        return _linalg.Scaled(length, direction), with_pair(state, pair)

    def descent(step: Descent, state: EigenSAMState) -> tuple[chex.ArrayTree, EigenSAMState]:
        step, pair, _ = after_step(eigenvector, step, pair_of(state))
        return step.grads_adv, kept(step, with_pair(state, pair))

    return two_gradients(
        init=init, ascent=ascent, descent=descent, axis_name=axis_name, per_device=per_device
    )
