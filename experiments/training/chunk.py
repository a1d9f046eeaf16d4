"""Take many training steps in one call of a compiled function."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from experiments.models.network import Apply, Batch
from experiments.training.batches import augmented, epoch_order, steps_per_epoch
from experiments.training.devices import ONE_DEVICE, Devices
from experiments.training.hosts import from_first
from experiments.training.spec import Varied
from experiments.training.step import StepMetrics, TrainState, train_step
from xsam_jax import channels_last


def placed(state: TrainState, devices: Devices) -> TrainState:
    """Copy a state of this host into new buffers on the devices."""
    return TrainState(
        step=devices.replicate(state.step),
        params=devices.place(state.params),
        batch_stats=devices.replicate(state.batch_stats),
        opt_state=devices.place(state.opt_state),
        bad_steps=devices.replicate(state.bad_steps),
    )


# (state, metrics of the epoch so far, training data, step to stop before) -> state, metrics
RunChunk = Callable[[TrainState, StepMetrics, Batch, int], tuple[TrainState, StepMetrics]]
# The same for any run of a program: its `Varied` and the key of its batches come first.
SharedChunk = Callable[
    [Varied, jax.Array, TrainState, StepMetrics, Batch, int], tuple[TrainState, StepMetrics]
]


def make_run_chunk(
    apply: Apply,
    method: Callable[[Varied], optax.GradientTransformationExtraArgs],
    *,
    batch_size: int,
    crop_padding: int,
    flip: bool,
    ascent_part: float = 1.0,
    devices: Devices = ONE_DEVICE,
    max_bad_steps: int = 0,
    curvature_apply: Apply | None = None,
) -> SharedChunk:
    """Make a function, to be compiled, that takes any number of steps within one epoch.

    Batches and augmentation depend on the key and on ``state.step`` alone, so neither the length
    of the chunks nor an interruption changes a run.

    Args:
        apply: The network's forward pass in training.
        method: The method of a run.
        batch_size: Images per step.
        crop_padding: See `augmented`.
        flip: See `augmented`.
        ascent_part: See `train_step`.
        devices: Where state, batches and gradients lie.
        max_bad_steps: Take no step after so many bad ones in a row, 0 for no such limit.
        curvature_apply: See `train_step`.

    Returns:
        The function. The state and the metrics that it is given may be donated.
    """

    def run_chunk(
        values: Varied,
        key: jax.Array,
        state: TrainState,
        metrics: StepMetrics,
        data: Batch,
        stop: int,
    ) -> tuple[TrainState, StepMetrics]:
        order_key, augment_key = jax.random.split(key)
        tx = method(values)

        # Loops slow a CPU's convolutions down unless they are laid out for it.
        @channels_last
        def step(
            state: TrainState, data: Batch, indices: jax.Array
        ) -> tuple[TrainState, StepMetrics]:
            key = jax.random.fold_in(augment_key, state.step)
            images = augmented(data.images, indices, key, crop_padding=crop_padding, flip=flip)
            batch = devices.split(Batch(images, data.labels[indices]))
            state, loss, accuracy = train_step(
                apply, tx, state, batch, ascent_part, devices, curvature_apply
            )
            state = state._replace(
                params=devices.keep(state.params), opt_state=devices.keep(state.opt_state)
            )
            return state, StepMetrics(loss, accuracy)

        num_images = len(data.images)
        steps = steps_per_epoch(num_images, batch_size)
        first = state.step - state.step % steps
        epoch_key = jax.random.fold_in(order_key, first // steps)
        order = epoch_order(epoch_key, num_images, batch_size)

        def body(carry: tuple[TrainState, StepMetrics]) -> tuple[TrainState, StepMetrics]:
            state, metrics = carry
            i = state.step - first
            state, new = step(state, data, order[i])
            return state, jax.tree.map(lambda all_, x: all_.at[i].set(x), metrics, new)

        def goes_on(carry: tuple[TrainState, StepMetrics]) -> jax.Array:
            state, _ = carry
            more = state.step < stop
            return more & (state.bad_steps < max_bad_steps) if max_bad_steps else more

        after: tuple[TrainState, StepMetrics] = jax.lax.while_loop(goes_on, body, (state, metrics))
        return after

    return run_chunk


def empty_metrics(steps: int) -> StepMetrics:
    """Make the metrics of an epoch of which no step was taken yet."""
    return StepMetrics(jnp.zeros(steps), jnp.zeros(steps))


def take_steps(
    run_chunk: RunChunk,
    state: TrainState,
    metrics: StepMetrics,
    data: Batch,
    stop: int,
    *,
    on_chunk: Callable[[TrainState, StepMetrics], None] | None = None,
    seconds: float = 0.5,
) -> tuple[TrainState, StepMetrics]:
    """Take the steps up to ``stop``, in one call or in several, to look at the run in between.

    Args:
        run_chunk: From `make_run_chunk`, for one run.
        state: State before; donated.
        metrics: Metrics of the epoch; donated.
        data: Training data.
        stop: Step to stop before, within the same epoch.
        on_chunk: Called after each chunk; it must have waited for its arguments when it returns.
        seconds: About how long a chunk shall take.

    Returns:
        State and metrics after.
    """
    if on_chunk is None:
        return run_chunk(state, metrics, data, stop)
    step, chunk = int(state.step), 1
    while step < stop:
        started = time.perf_counter()
        chunk = min(chunk, stop - step)
        step += chunk
        state, metrics = run_chunk(state, metrics, data, step)
        on_chunk(state, metrics)
        # The first chunk, with its compilation, takes one step, and so does the one after it.
        chunk = from_first(max(1, round(chunk * seconds / (time.perf_counter() - started))))
    return state, metrics
