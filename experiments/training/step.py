"""A training step, its state and its metrics."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from experiments.models.network import Apply, Batch, batch_gradient
from experiments.training.batches import part_size
from experiments.training.devices import ONE_DEVICE, Devices


class EpochMetrics(NamedTuple):
    """A line of metrics.jsonl.

    Attributes:
        epoch: Counted from 1.
        train_loss: Mean over the epoch's steps, at the parameters before each step, augmented; bad
            steps are left out.
        train_accuracy: The same, percent.
        test_loss: After the epoch.
        test_accuracy: After the epoch, percent.
        lambda_max: Largest Hessian eigenvalue on the fixed training subset, None where not
            measured.
        angle: Degrees between SAM's second gradient and its eigenvector, None where not measured.
        seconds: Wall time of the epoch, its evaluation and compilation included.
        bad_steps: Numbers of its steps, counted from 1 in the run, that were not finite and changed
            nothing.
        step_losses: The loss of each of its steps, as in ``train_loss``; that of a bad step is NaN
            here and null in the file.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    lambda_max: float | None
    angle: float | None
    seconds: float
    bad_steps: Sequence[int] = ()
    step_losses: Sequence[float] = ()


class TrainState(NamedTuple):
    """Everything that changes in training, and that a checkpoint must hold.

    Attributes:
        step: Steps taken, int32.
        params: Parameters.
        batch_stats: Running statistics of BatchNorm.
        opt_state: State of the method and its base optimizer.
        bad_steps: Bad steps in a row up to here, int32; see `train_step`.
    """

    step: jax.Array
    params: chex.ArrayTree
    batch_stats: chex.ArrayTree
    opt_state: optax.OptState
    bad_steps: chex.Numeric = 0


class StepMetrics(NamedTuple):
    """Loss and accuracy in [0, 1] of each step of one epoch, from the pass at w itself.

    The loss of a bad step is NaN.
    """

    loss: jax.Array
    accuracy: jax.Array


def train_step(
    apply: Apply,
    tx: optax.GradientTransformationExtraArgs,
    state: TrainState,
    batch: Batch,
    ascent_part: float = 1.0,
    devices: Devices = ONE_DEVICE,
    curvature_apply: Apply | None = None,
) -> tuple[TrainState, jax.Array, jax.Array]:
    """Take one step of a method on one batch.

    Every pass starts from the same batch statistics, and only the pass at w itself, whose gradient
    the method is given, advances them.

    A step is bad if its loss or anything of its update is not finite. It is counted and changes
    nothing else.

    Args:
        apply: The network's forward pass in training.
        tx: The method.
        state: State before the step.
        batch: The batch, augmented.
        ascent_part: Part of the batch for the pass at w, from which the perturbation is made, and
            for Hessian products.
        devices: Where the gradient is computed.
        curvature_apply: The forward pass for Hessian products, if it is another one.

    Returns:
        State after the step; loss, NaN if it was bad, and accuracy at the parameters before it.
    """
    images = part_size(ascent_part, len(batch.labels))
    part = devices.split(jax.tree.map(lambda leaf: leaf[:images], batch))
    gradient = devices.gradient(partial(batch_gradient, apply))
    grads, (loss, accuracy), batch_stats = gradient(state.params, state.batch_stats, part)

    def gradient_of(apply: Apply, batch: Batch) -> Callable[[chex.ArrayTree], chex.ArrayTree]:
        gradient = devices.gradient(partial(batch_gradient, apply))
        return lambda params: gradient(params, state.batch_stats, batch)[0]

    extra_args = {"grad_fn": gradient_of(apply, batch)}
    if ascent_part < 1 or curvature_apply is not None:
        extra_args["curvature_grad_fn"] = gradient_of(curvature_apply or apply, part)
    with devices.known():
        updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra_args)
    params = optax.apply_updates(state.params, updates)
    good = jnp.isfinite(loss)
    for update in jax.tree.leaves(updates):
        good &= jnp.all(jnp.isfinite(update))
    params, batch_stats, opt_state = jax.tree.map(
        partial(jnp.where, good),
        (params, batch_stats, opt_state),
        (state.params, state.batch_stats, state.opt_state),
    )
    bad_steps = jnp.where(good, 0, state.bad_steps + 1)
    after = TrainState(state.step + 1, params, batch_stats, opt_state, bad_steps)
    return after, jnp.where(good, loss, jnp.nan), accuracy
