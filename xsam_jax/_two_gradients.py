"""Builds every method from two gradients and two pure functions: its ascent and its descent.

A method is an *ascent*, from the gradient at the parameters to a perturbation, and a *descent*,
from the gradient at the perturbed parameters to the direction that the base optimizer receives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp
import optax

from xsam_jax import _checks, _grad_fn, _inner_products, _linalg, _placement, _states
from xsam_jax._gradients import GradFn, check_dependence
from xsam_jax._hyperparameters import Schedule
from xsam_jax._xla.branch import computed_if
from xsam_jax.curvature._hvp import hvp_of

State = TypeVar("State", bound=tuple[Any, ...])


class Ascent(NamedTuple):
    """What a method's ascent and `Tracker.before` are given: a step before its perturbation.

    Attributes:
      grads: the mini-batch's gradient at ``params``, averaged over the devices of ``axis_name``.
      own: the gradient to perturb with: ``grads``, or with ``per_device=True`` this device's.
      params: the parameters.
      hvp: ``(w, v) -> H(w) v``, the Hessian-vector product of the mini-batch, or of
        ``curvature_grad_fn`` where the caller gives that. `curvature.hvp` says more of it.
      refresh: whether the caller of ``update`` wants a new eigenvector; None leaves it to the
        tracker.
    """

    grads: chex.ArrayTree
    own: chex.ArrayTree
    params: chex.ArrayTree
    hvp: Callable[[chex.ArrayTree, chex.ArrayTree], chex.ArrayTree]
    refresh: bool | None = None


class Descent(NamedTuple):
    """What a method's descent and `Tracker.after` are given: a step after its perturbation.

    Attributes:
      grads: the gradient at ``params``.
      grads_adv: the gradient at ``params + perturbation``.
      perturbation: as ``(scale, tree)``, not multiplied out.
      params: the parameters.
      extra_args: what else ``update`` was given.
      finite: whether the norms of both gradients are finite, bool[].
      before: the method's state before the step.
    """

    grads: chex.ArrayTree
    grads_adv: chex.ArrayTree
    perturbation: tuple[chex.Array, chex.ArrayTree]
    params: chex.ArrayTree
    extra_args: Mapping[str, Any] = MappingProxyType({})
    finite: chex.Array | bool = True
    before: Any = None


class SAMState(NamedTuple):
    """State of `sam`, `gsam` and `wsam`, which remember only the step count.

    Attributes:
      count: steps taken, int32[].
    """

    count: chex.Array


def sam_init(params: chex.ArrayTree) -> SAMState:
    """The state before the first step."""
    del params
    return SAMState(count=jnp.zeros([], jnp.int32))


def sam_ascent(radius: Schedule) -> Callable[[Ascent, State], tuple[_linalg.Scaled, State]]:
    """The perturbation ``rho * g / ||g||`` (Eq. 3)."""
    return lambda step, state: (_linalg.scaled_to(radius(state.count), step.own), state)


def sam_descent(step: Descent, state: State) -> tuple[chex.ArrayTree, State]:
    """The gradient at the perturbed parameters (Eq. 4)."""
    return step.grads_adv, kept(step, state)


def kept(step: Descent, state: State) -> State:
    """Returns ``state``, or the one before the step where a gradient is not finite."""
    chosen: State = _linalg.select(step.finite, state, step.before)
    return chosen


def two_gradients(
    *,
    init: Callable[[chex.ArrayTree], Any] = sam_init,
    ascent: Callable[[Ascent, State], tuple[_linalg.Scaled, State]],
    descent: Callable[[Descent, State], tuple[chex.ArrayTree, State]] = sam_descent,
    axis_name: _checks.AxisName,
    per_device: bool,
) -> optax.GradientTransformationExtraArgs:
    """Builds a method from its ascent and descent.

    Args:
      init: parameters -> state, a NamedTuple with a field ``count``, which is kept here.
      ascent: ``(Ascent, state) -> (perturbation, state)``.
      descent: ``(Descent, state) -> (direction, state)``; the state is `kept` where it is due.
      axis_name: gradients and Hessian products are averaged over this axis of `jax.shard_map`.
      per_device: each device perturbs with its own gradient.

    Returns:
      A transformation. A step in which the norm of either gradient is not finite leaves its state
      as it was but for ``count``, and its direction is NaN, for an `optax.apply_if_finite` behind
      it to see.

    Raises:
      TypeError, ValueError: ``axis_name`` is no name, or ``per_device`` is not a bool, or True
        without an ``axis_name``.
    """
    _checks.axis_name(axis_name)
    _checks.boolean("per_device", per_device)
    if per_device and axis_name is None:
        raise ValueError("per_device must be False without an axis_name, got True")

    def checked_init(params: chex.ArrayTree) -> Any:
        _checks.real("params", params)
        state = init(params)
        return _placement.varying_like(state, params)._replace(count=state.count)

    def update(
        updates: chex.ArrayTree,
        state: State,
        params: chex.ArrayTree | None = None,
        *,
        grad_fn: GradFn | None = None,
        curvature_grad_fn: GradFn | None = None,
        refresh: bool | None = None,
        **extra_args: Any,
    ) -> tuple[chex.ArrayTree, State]:
        if params is None:
            raise ValueError("params must be given: update(updates, state, params, grad_fn=...)")
        _checks.real("params", params)
        _checks.same_on_devices("params", params, axis_name)
        _checks.same_tree("updates", updates, params)
        _checks.real("updates", updates)
        _states.check(state, init, params)
        if refresh is not None:
            _checks.boolean("refresh", refresh)  # what is compiled depends on it
            refresh = bool(refresh)
        own_gradient = _placed("grad_fn", grad_fn, params)
        _checks.own_gradient("updates", updates, axis_name, own_gradient, params)
        gradient = _averaged("grad_fn", own_gradient, axis_name)
        product = functools.partial(hvp_of, "grad_fn", gradient)
        if curvature_grad_fn is not None:
            own_curvature = _placed("curvature_grad_fn", curvature_grad_fn, params)
            curvature = _averaged("curvature_grad_fn", own_curvature, axis_name)
            product = functools.partial(hvp_of, "curvature_grad_fn", curvature)

        updates = _placement.shard_like(updates, params)
        grads = _mean(updates, axis_name)
        own = updates if per_device else grads
        new_state: Any
        perturbation, new_state = ascent(Ascent(grads, own, params, product, refresh), state)
        perturbed = _linalg.cast_like(_linalg.combine((1, params), perturbation), params)
        squared = _inner_products.vdot(own, own)
        if per_device:
            squared = _mean(squared, axis_name)
        finite = jnp.isfinite(squared)
        traced, shapes = jax.make_jaxpr(gradient, return_shape=True)(perturbed)
        check_dependence("grad_fn", traced, params)
        grads_adv = computed_if(finite, traced, shapes, perturbed)
        finite &= jnp.isfinite(_inner_products.vdot(grads_adv, grads_adv))
        direction, new_state = descent(
            Descent(grads, grads_adv, perturbation, params, extra_args, finite, state), new_state
        )
        direction = _linalg.scale(jnp.where(finite, 1, jnp.nan), direction)
        return (
            _linalg.cast_like(direction, updates),
            new_state._replace(count=optax.safe_increment(state.count)),
        )

    return optax.GradientTransformationExtraArgs(checked_init, update)


def _placed(name: str, grad_fn: Any, params: chex.ArrayTree) -> GradFn:
    """The caller's gradient function, with its result checked and placed like ``params``."""
    gradient = _grad_fn.checked(name, _grad_fn.given(name, grad_fn), params)
    return lambda at: _placement.shard_like(gradient(at), params)


def _averaged(name: str, grad_fn: GradFn, axis_name: _checks.AxisName) -> GradFn:
    """Makes ``grad_fn`` average its result over the devices."""

    def averaged(at: chex.ArrayTree) -> chex.ArrayTree:
        grads = grad_fn(at)
        _checks.own_gradient(f"the result of {name}", grads, axis_name, grad_fn, at)
        return _mean(grads, axis_name)

    return averaged


def _mean(tree: chex.ArrayTree, axis_name: _checks.AxisName) -> chex.ArrayTree:
    return tree if axis_name is None else _placement.mean(tree, axis_name)
