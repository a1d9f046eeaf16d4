"""Measures how a step of SAM stands to the dominant eigenvector of its mini-batch's Hessian.

The angle is what the paper measures (section 4.1). It infers from it how the step changes the
eigenvalue, which is measured here too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from experiments.training.measure import fold
from xsam_jax import curvature

GradFn = Callable[[chex.ArrayTree], chex.ArrayTree]


class Measured(NamedTuple):
    """A measurement at one step, or an array of them.

    Attributes:
        plain: Degrees in [0, 90] between the gradient and the eigenvector.
        layerwise: The same with the gradient of each layer normalised (section 4.1).
        top_value: The eigenvalue, of the Hessian of the step's mini-batch.
        residual: Norm of the Hessian times the eigenvector minus the eigenvalue times it.
        change: Of the eigenvalue, relative, by the step of SAM as Eq. 4 has it, with the initial
            learning rate and without momentum.
    """

    plain: Any
    layerwise: Any
    top_value: Any
    residual: Any
    change: Any


class ObservedState(NamedTuple):
    """A method's state with the measurements so far; those still to come are NaN.

    A step of the run that is not finite changes nothing, so it is not counted here.
    """

    inner: optax.OptState
    step: jax.Array
    measured: Measured


def measure(
    grad_fn: GradFn,
    params: chex.ArrayTree,
    grads: chex.ArrayTree,
    *,
    rho: float,
    learning_rate: float,
    num_matvecs: int,
) -> Measured:
    """Measure the angle at one point, and the eigenvalue's change by the step from there.

    Args:
        grad_fn: Gradient of the mini-batch's loss.
        params: The point.
        grads: The gradient there.
        rho: Radius of SAM.
        learning_rate: Of the step.
        num_matvecs: Hessian-vector products at each of the two points.

    Returns:
        The measurement.
    """
    second = grad_fn(optax.tree.add_scale(params, rho / optax.tree.norm(grads), grads))
    top_eigenpairs = partial(
        curvature.top_eigenpairs,
        grad_fn,
        num_matvecs=num_matvecs,
        which="LA",
        key=jax.random.key(0),
    )
    top = top_eigenpairs(params)
    vector = jax.tree.map(lambda leaf: leaf[0], top.vectors)
    after = top_eigenpairs(optax.tree.add_scale(params, -learning_rate, second), start=vector)
    return Measured(
        fold(curvature.angle(second, vector)),
        fold(curvature.angle(second, vector, layerwise=True)),
        top.values[0],
        top.residuals[0],
        after.values[0] / top.values[0] - 1,
    )


def observe(
    tx: optax.GradientTransformationExtraArgs,
    steps: int,
    *,
    every: int,
    measurement: Callable[[GradFn, chex.ArrayTree, chex.ArrayTree], Measured],
) -> optax.GradientTransformationExtraArgs:
    """Add measurements to a method: on the mini-batch of every k-th step.

    Args:
        tx: The method.
        steps: Number of all its steps.
        every: Steps between two measurements; the first step is measured.
        measurement: `measure` with its options.

    Returns:
        The same method, with `ObservedState`.
    """

    def init(params: chex.ArrayTree) -> ObservedState:
        none = Measured(*jnp.full((len(Measured._fields), -(-steps // every)), jnp.nan))
        return ObservedState(tx.init(params), jnp.zeros((), jnp.int32), none)

    def update(
        updates: chex.ArrayTree,
        state: ObservedState,
        params: chex.ArrayTree | None = None,
        *,
        grad_fn: GradFn,
        **extra_args: Any,
    ) -> tuple[chex.ArrayTree, ObservedState]:
        def measured(before: Measured) -> Measured:
            new = measurement(grad_fn, params, updates)
            i = state.step // every
            return Measured(*(all_.at[i].set(x) for all_, x in zip(before, new, strict=True)))

        after = lax.cond(state.step % every == 0, measured, lambda before: before, state.measured)
        updates_, inner = tx.update(updates, state.inner, params, grad_fn=grad_fn, **extra_args)
        return updates_, ObservedState(inner, state.step + 1, after)

    return optax.GradientTransformationExtraArgs(init, update)
