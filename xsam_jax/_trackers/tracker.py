"""What a tracker of the Hessian's dominant eigenvector is, for `xsam` and `eigen_sam`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np
from jax import lax

from xsam_jax import _checks, _inner_products, _linalg, _placement
from xsam_jax._two_gradients import Ascent, Descent

# What a product's squared norm may have lost: the vector made of it keeps its norm of one.
LOST_SHARE = 1e-6
_ROUNDINGS = 16  # by which the gradients of a loss without curvature may differ
_LAST = 2**31 - 1  # what an int32 can count


class Eigenpair(NamedTuple):
    """An estimate of the Hessian's dominant eigenpair.

    Attributes:
      vector: tree like the parameters, of norm one, or zero while nothing is known; float32, or
        float64 for float64 parameters.
      value: the eigenvalue, float32[].
      memory: what else the tracker keeps from step to step, a pytree: `power_iteration` the step
        count from which the next refresh is due, int32[], `subspace` its basis, `oja` nothing.
    """

    vector: chex.ArrayTree
    value: chex.Array
    memory: Any = ()


def unknown(params: chex.ArrayTree) -> Eigenpair:
    """The pair before the first estimate: a zero vector, which corrects nothing."""
    return Eigenpair(_linalg.zeros_like(params), jnp.zeros([], jnp.float32))


def pair_of(state: Any) -> Eigenpair:
    """Takes the pair out of the state of `xsam` or `eigen_sam`."""
    return Eigenpair(state.eigenvector, state.eigenvalue, state.memory)


def with_pair(state: Any, pair: Eigenpair) -> Any:
    """Puts a new pair into the state of `xsam` or `eigen_sam`."""
    vector, value, memory = pair
    return state._replace(eigenvector=vector, eigenvalue=value, memory=memory)


Before = Callable[[Ascent, Eigenpair, chex.Array], Eigenpair]
Projection = Callable[[], chex.Array]
After = Callable[[Descent, Eigenpair], tuple[Eigenpair, Projection | None]]


def _kept_before(step: Ascent, pair: Eigenpair, count: chex.Array) -> Eigenpair:
    del step, count
    return pair


def _kept_after(step: Descent, pair: Eigenpair) -> tuple[Eigenpair, None]:
    del step
    return pair, None


class Tracker(NamedTuple):
    """A way to follow the dominant eigenvector through training.

    In each step a method calls ``before``, perturbs, takes the second gradient, calls ``after``,
    and corrects its direction by the vector it has then. Both are pure functions, and keep the
    pair's structure, shapes and dtypes. ``docs/trackers.md`` writes two.

    Attributes:
      before: ``(Ascent, pair, count) -> pair``, with Hessian-vector products at the parameters;
        ``count`` is that of the steps before, int32[]. By default the pair stays.
      after: ``(Descent, pair) -> (pair, projection)``, from the step's two gradients. By default
        the pair stays. A pair whose value is not finite is dropped for the one before the step. The
        projection is None, or a function that gives ``<g_adv, v>`` on the new vector, which a
        tracker may know without a pass over it, or on the old one where the new one is dropped.
      init: parameters -> pair before the first step. By default its vector is zero, which corrects
        nothing, and it has no memory.
      free: whether it takes `free_product`. It is refused with ``per_device=True`` then.
      constants: its hyperparameters. Where a traced one is NaN, being out of its range, the
        method's radius is NaN too.
      name: what its `repr` is.

    Example:
      >>> import xsam_jax
      >>> xsam_jax.xsam(eigenvector=xsam_jax.Tracker())  # no vector: normalised SAM
      GradientTransformationExtraArgs(...)
    """

    before: Before = _kept_before
    after: After = _kept_after
    init: Callable[[chex.ArrayTree], Eigenpair] = unknown
    free: bool = False
    constants: tuple[Any, ...] = ()
    name: str = "Tracker(...)"

    def __repr__(self) -> str:
        """Shows the call that made the tracker, such as ``oja(rate=0.3)``."""
        return self.name


def check_tracker(tracker: Any, per_device: bool) -> None:
    """Raises unless a method that is given a tracker can use it."""
    allowed = "power_iteration(), oja(), subspace() or another Tracker"
    _checks.instance("eigenvector", tracker, Tracker, allowed)
    _checks.boolean("per_device", per_device)
    if per_device and tracker.free:
        raise ValueError(
            "eigenvector must be power_iteration() with per_device=True: trackers such as oja() "
            "and subspace() take the Hessian product of one perturbation, and each device has "
            f"another, got {tracker!r}"
        )


def free_product(step: Descent) -> tuple[_linalg.Scaled, chex.ArrayTree]:
    """The Hessian product that SAM's two gradients give: ``x = e / ||e||`` and ``Hx``.

    ``Hx`` is ``(g_adv - g) / ||e||``, right up to ``O(||e||)``. Both are zero where ``e`` is.

    Args:
      step: what `Tracker.after` is given.

    Returns:
      ``x`` as ``(scale, tree)``, not multiplied out, and ``Hx``; trees like the parameters, float32
      or float64.

    Example:
      >>> import jax.numpy as jnp, xsam_jax
      >>> curvatures = jnp.array([1.0, 3.0])
      >>> w, e = jnp.array([1.0, 1.0]), jnp.array([0.0, 2.0])
      >>> step = xsam_jax.Descent(curvatures * w, curvatures * (w + e), (jnp.ones(()), e), w)
      >>> (scale, tree), product = xsam_jax.free_product(step)
      >>> scale * tree, product
      (Array([0., 1.], dtype=float32), Array([0., 3.], dtype=float32))
    """
    scale, tree = step.perturbation
    inverse = _linalg.reciprocal(scale * _linalg.norm(tree))
    product = _linalg.combine((inverse, step.grads_adv), (-inverse, step.grads))
    return _linalg.Scaled(inverse * scale, tree), product


def product_norm(
    step: Descent, x: _linalg.Scaled, squared: chex.Array, product: chex.ArrayTree
) -> chex.Array:
    """The norm of a `free_product`, 0 where the two gradients differ by rounding only.

    So they do where the loss has no curvature, as a linear one; their difference has a direction,
    but it says nothing.
    """
    scale, tree = step.perturbation
    norm = _linalg.length(squared, product, LOST_SHARE)
    # In units of the norm of the tree, which is 1 / x.scale, and most often that of the gradient.
    of_gradient = 1 if tree is step.grads else x.scale * _linalg.norm(step.grads)
    rounding = _ROUNDINGS * float(np.finfo(norm.dtype).eps) * of_gradient
    return jnp.where(norm * scale <= rounding, 0, norm)


def after_step(
    tracker: Tracker, step: Descent, pair: Eigenpair
) -> tuple[Descent, Eigenpair, Projection | None]:
    """Calls `Tracker.after`, and marks the step as not finite where the new eigenvalue is not.

    A step is taken for not finite also where the tracker's inner products overflow, as they do
    before those of the gradients: the state keeps the old vector.
    """
    pair, projection = tracker.after(step, pair)
    return step._replace(finite=step.finite & jnp.isfinite(pair.value)), pair, projection


def projected(step: Descent, v: chex.ArrayTree, projection: Projection | None) -> chex.Array:
    """The inner product ``<g_adv, v>``: the tracker's if it knows it, else computed.

    A GPU is faster where nothing has to wait for the vector. XLA:CPU would compute it in every
    kernel that needs it, and keep the first gradient until then.
    """

    def passed_over() -> chex.Array:
        return _inner_products.vdot(step.grads_adv, v)

    if projection is None or not _placement.compiling():
        return passed_over()
    found: chex.Array = lax.platform_dependent(cpu=passed_over, default=projection)
    return found


def periodic(every: int, refresh: Before) -> Tracker:
    """A tracker that refreshes the pair in steps 1, ``every + 1``, ... and keeps it in between.

    A refresh that gives a zero vector, or what is not finite, is dropped. One that falls on a step
    whose gradients are not finite is lost with that step, and made in the next. Where the caller
    decides (`Ascent.refresh`), a step has the refresh or has none, and one that is lost is not made
    up for. The step count ends at 2**31 - 1: from then on no refresh is due.

    Args:
      every: steps from one refresh to the next, in [1, 2**31 - 1].
      refresh: ``(Ascent, pair, count) -> pair``, a pure function; ``count`` is that of the steps
        before, int32[]. The new vector has norm one, and the memory stays as it is.

    Returns:
      A tracker. Its memory is the step count from which the next refresh is due, int32[].

    Raises:
      TypeError, ValueError: ``every`` is out of its range, or ``refresh`` is not a function.

    Example:
      >>> import jax.numpy as jnp, optax, xsam_jax
      >>> def refresh(step, pair, count):  # the gradient's direction, and the curvature along it
      ...     v = optax.tree.scale(1 / optax.tree.norm(step.grads), step.grads)
      ...     return pair._replace(vector=v, value=optax.tree.vdot(v, step.hvp(step.params, v)))
      >>> tx = xsam_jax.xsam(eigenvector=xsam_jax.periodic(10, refresh))
    """
    _checks.integer("every", every, low=1, high=_LAST)
    _checks.function("refresh", refresh, "(Ascent, pair, count) -> pair")

    def init(params: chex.ArrayTree) -> Eigenpair:
        return unknown(params)._replace(memory=jnp.zeros([], jnp.int32))

    def before(step: Ascent, pair: Eigenpair, count: chex.Array) -> Eigenpair:
        if step.refresh is False:
            return pair

        # Computed inside the branch again: XLA:CPU orders operations by their distance from the
        # inputs, and a second use of the condition would put the branch one step later, where it
        # overlaps with the gradients' buffers (a transformer: 1337 MiB in place of 779). A refresh
        # that the caller asks for is a branch for the same reason (ResNet-18: 319 MiB, not 380).
        def due(pair: Eigenpair) -> chex.Array:
            # The last count is that of all later steps.
            return jnp.minimum(count, _LAST - 1) >= (0 if step.refresh else pair.memory)

        def refreshed(pair: Eigenpair) -> Eigenpair:
            new = refresh(step, pair, count)
            # The norm is not a number if the vector is not.
            good = (_linalg.norm(new.vector) > 0) & jnp.isfinite(new.value)
            chosen: Eigenpair = _linalg.select(due(pair) & good, new, pair)
            return chosen

        if every == 1:
            pair = refreshed(pair)
        elif _placement.compiling():
            pair = lax.cond(_placement.anywhere(due(pair)), refreshed, lambda pair: pair, pair)
        elif _placement.anywhere(due(pair)):  # a branch would be compiled anew in every step
            pair = refreshed(pair)
        # The paper's "t mod p = 1" with t = count + 1, written so that p = 1 is every step.
        latest = count // every * every
        return pair._replace(memory=latest + jnp.minimum(every, _LAST - latest))

    def after(step: Descent, pair: Eigenpair) -> tuple[Eigenpair, Projection]:
        return pair, lambda: _inner_products.vdot(step.grads_adv, pair.vector)

    return Tracker(before, after, init, name=f"periodic(every={every}, ...)")
