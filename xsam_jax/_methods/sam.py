"""SAM, and ASAM, whose ball is stretched by the sizes of the parameters."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from xsam_jax import _checks, _linalg
from xsam_jax._checks import AxisName
from xsam_jax._hyperparameters import ScalarOrSchedule, schedule
from xsam_jax._two_gradients import Ascent, SAMState, sam_ascent, two_gradients


def sam(
    rho: ScalarOrSchedule = 0.05,
    *,
    adaptive: bool = False,
    axis_name: AxisName = None,
    per_device: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Sharpness-Aware Minimization: the gradient at the worst point of a ball around the weights.

    With ``g`` the gradient at ``w`` the perturbation is::

        e = rho * g / ||g||     (Eq. 3)

    and the direction the gradient at ``w + e`` (Eq. 4). With ``adaptive`` it is ASAM, whose ball is
    stretched by the size of every parameter::

        e = rho * w**2 * g / ||w * g||

    The perturbed parameters have the parameters' dtype. In bfloat16 rounding takes most of a small
    perturbation away: keep float32 parameters and cast them in the loss, which then sees all of the
    perturbation, and rounding noise beside it (``docs/recipes/low_precision.md`` has figures).

    Args:
      rho: radius of the ball, >= 0, or a schedule ``count -> radius``. The number may be traced, as
        in `jax.vmap` over a sweep (``docs/recipes/logging.md``) or `optax.inject_hyperparams`.
      adaptive: use ASAM's norm. ``rho`` is then a relative change, ``||e / |w|||``: ASAM's authors
        have 0.5 and 1, and the default, which is SAM's, is almost none.
      axis_name: name of a `jax.shard_map` axis to average gradients over.
      per_device: perturb with each device's own gradient and average only the gradients there
        (m-sharpness, with m the examples of a device): one average a step instead of two. Needs
        ``axis_name``, and ``updates`` and ``grad_fn`` that are of the device's own examples.

    Returns:
      A transformation with state `SAMState` and ``update(updates, state, params, *, grad_fn)``:
      ``updates`` is the gradient at ``params``, ``grad_fn(params)`` the gradient of the same
      mini-batch at other parameters, and the result, the direction, has the dtypes of ``updates``.
      Where the norm of either gradient is not finite the direction is NaN and the state keeps all
      but its step count; so is the direction where a traced hyperparameter is out of its range.
      Arguments that the method does not know are ignored, for others in its chain. All methods of
      this package have this in common.

    Raises:
      TypeError, ValueError: an argument that is out of its range. ``update`` raises them where it
        is given no ``params`` or no ``grad_fn``, trees that differ, leaves that are not real, the
        state of another method, or a ``grad_fn`` that reads ``params`` and not its argument.

    Example:
      >>> import jax, jax.numpy as jnp, optax, xsam_jax
      >>> grad_fn = jax.grad(lambda w: jnp.sum(w**2))
      >>> w = jnp.array([3.0, 4.0])
      >>> optimizer = optax.chain(xsam_jax.sam(rho=1.0), optax.sgd(0.1))
      >>> state = optimizer.init(w)
      >>> updates, state = optimizer.update(grad_fn(w), state, w, grad_fn=grad_fn)
      >>> optax.apply_updates(w, updates)
      Array([2.28, 3.04], dtype=float32)

    References:
      Foret et al., `Sharpness-Aware Minimization for Efficiently Improving Generalization
      <https://arxiv.org/abs/2010.01412>`_, 2021. Kwon et al., `ASAM
      <https://arxiv.org/abs/2102.11600>`_, 2021, as in `davda54/sam
      <https://github.com/davda54/sam>`_: all parameters are scaled by their size. (The authors'
      own code adds ``eta = 0.01`` to the size of weights, and leaves other parameters, such as
      biases, unscaled. Here one that is exactly zero is not perturbed.)
    """
    radius = schedule("rho", rho)
    _checks.boolean("adaptive", adaptive)

    def adaptive_ascent(step: Ascent, state: SAMState) -> tuple[_linalg.Scaled, SAMState]:
        # Each product with numbers of moderate size: w**2 * g may be beyond float32's range.
        stretched = _linalg.multiply(step.params, _linalg.unit(step.own))
        stretched = _linalg.scale(*_linalg.scaled_to(radius(state.count), stretched, checked=True))
        perturbation = _linalg.multiply(step.params, stretched)
        return _linalg.Scaled(jnp.ones([]), perturbation), state

    ascent = adaptive_ascent if adaptive else sam_ascent(radius)
    return two_gradients(ascent=ascent, axis_name=axis_name, per_device=per_device)
