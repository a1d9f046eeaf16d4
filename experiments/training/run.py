"""A training run from its options to its result: `train`."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.common.errors import BadNumbers, Stopped
from experiments.common.machine import versions
from experiments.training.checkpoint import Snapshot
from experiments.training.chunk import empty_metrics, placed, take_steps
from experiments.training.config import ResolvedConfig, TrainConfig
from experiments.training.devices import ONE_DEVICE, Devices
from experiments.training.hosts import any_of
from experiments.training.program import Observe, Program, prepare, start
from experiments.training.progress import (
    OnProgress,
    mean_of_good,
    numbers_of,
    report_bad_steps,
    report_of,
)
from experiments.training.run_folder import Result, RunFolder, open_run
from experiments.training.step import EpochMetrics, StepMetrics, TrainState


class Run(NamedTuple):
    """What a training knows at its end.

    Attributes:
        result: What result.json holds.
        epochs: The lines of metrics.jsonl.
        state: All that training changed.
    """

    result: Result
    epochs: list[EpochMetrics]
    state: TrainState


def train(
    config: TrainConfig,
    *,
    keep: bool = True,
    progress: OnProgress | None = None,
    observe: Observe | None = None,
    on_end: Callable[[TrainState], None] | None = None,
    draw: bool = True,
    stopping: Callable[[], bool] | None = None,
    devices: Devices = ONE_DEVICE,
    tensorboard: bool = False,
) -> Run:
    """Train a network.

    Args:
        config: The run; None fields take their defaults, see `resolve`.
        keep: Write config.json, metrics.jsonl, result.json and curves.png, and checkpoints on the
            way. A run that was stopped goes on from its last checkpoint, with the numbers it would
            have had; only its wall times differ. Otherwise no file is read or written.
        progress: Called about twice a second and after every epoch. Without it an epoch is one
            dispatch. It changes no number.
        observe: Wraps the method; what it measures is kept in the state of the optimizer.
        on_end: Called with the final state before result.json marks the run as finished.
        draw: Write curves.png.
        stopping: Asked about twice a second whether to save the run and stop. It changes no number.
        devices: Those to use; they change the numbers by rounding errors only.
        tensorboard: Write event files, which TensorBoard shows, into the folder ``tensorboard`` of
            the run. That needs tensorboardX.

    Returns:
        The result, the epochs and the final state.

    Raises:
        UserError: A value is out of range, the data are missing or damaged, the directory holds
            another run, or tensorboardX is not installed. Nothing has been written then. Or a
            checkpoint cannot be written.
        BadNumbers: Too many bad steps in a row; the run has been saved.
        Stopped: ``stopping`` said so.
        ValueError: ``tensorboard`` without ``keep``.
    """
    if tensorboard and not keep:
        raise ValueError("tensorboard=True needs keep=True: event files lie in the run's folder.")
    started = time.perf_counter()
    resolved, program = prepare(config, observe, devices)
    none = nullcontext(RunFolder(resolved, kept=False))
    with open_run(resolved, tensorboard) if keep else none as folder:
        state, _, step_metrics, history, earlier = _run(
            resolved, program, folder, progress, stopping
        )
        last = history[-1]
        if draw:
            folder.write_curves(history, step_metrics)
        trace = None
        if resolved.trace_probes:
            trace = program.trace(devices.whole(state.params), state.batch_stats, program.subset)
        result = Result(
            test_accuracy=last.test_accuracy,
            test_loss=last.test_loss,
            train_loss=last.train_loss,
            lambda_max=last.lambda_max,
            trace=None if trace is None else float(trace.value),
            trace_error=None if trace is None else float(trace.standard_error),
            seconds=earlier + time.perf_counter() - started,
            steps=resolved.epochs * program.steps,
            method=resolved.method,
            model=resolved.model,
            dataset=resolved.dataset,
            seed=resolved.seed,
            versions=versions(),
        )
        if on_end is not None:
            on_end(state)
        folder.finish(result)
        return Run(result, history, state)


def _run(
    config: ResolvedConfig,
    program: Program,
    folder: RunFolder,
    progress: OnProgress | None,
    stopping: Callable[[], bool] | None,
) -> Snapshot:
    """Take the run to its end, from its last checkpoint; the seconds are those before it."""
    began = time.perf_counter()
    steps = program.steps
    devices = program.devices
    run_chunk, state = start(config, program)
    metrics = devices.replicate(empty_metrics(steps))
    snapshot = Snapshot(state, metrics, [], [], 0.0)
    found = folder.restore(snapshot)
    if found is not None:
        snapshot = found
        state, metrics = placed(found.state, devices), devices.replicate(found.metrics)
    _, _, step_metrics, history, earlier = snapshot
    folder.write_metrics(history)

    def save(state: TrainState, metrics: StepMetrics) -> Path | None:
        seconds = earlier + time.perf_counter() - began
        state, metrics = devices.fetch((state, metrics))
        return folder.save(Snapshot(state, metrics, step_metrics, history, seconds))

    def report(state: TrainState, metrics: StepMetrics) -> None:
        if 0 < config.max_bad_steps <= int(state.bad_steps):
            raise BadNumbers(_no_end(state, save(state, metrics)))
        if progress is not None:
            progress(report_of(config.epochs, state, metrics, history))
        if any_of(stopping is not None and stopping()):
            place = save(state, metrics)
            goes_on = f"the same command goes on from the checkpoint in {config.out}"
            raise Stopped(
                f"stopped after step {int(state.step)} of {config.epochs * steps}; "
                f"{goes_on if place else 'nothing of it is kept'}"
            )

    in_chunks = any_of(progress is not None or stopping is not None)
    report(state, metrics)
    for epoch in range(len(history) + 1, config.epochs + 1):
        started = time.perf_counter()
        on_chunk = report if in_chunks else None
        state, metrics = take_steps(
            run_chunk, state, metrics, program.train_data, epoch * steps, on_chunk=on_chunk
        )
        if on_chunk is None:
            report(state, metrics)
        # Copies, because the next epoch overwrites the buffers.
        step_metrics.append(jax.tree.map(np.array, metrics))
        params = devices.whole(state.params)
        test = program.evaluate(params, state.batch_stats, program.test_data)
        every = config.curvature_every
        measured = every > 0 and (epoch % every == 0 or epoch == config.epochs)
        sharpness = program.measure(params, state.batch_stats, program.subset) if measured else None
        bad_steps = report_bad_steps(epoch, step_metrics[-1].loss)
        history.append(
            EpochMetrics(
                epoch=epoch,
                train_loss=mean_of_good(metrics.loss, metrics),
                train_accuracy=100 * mean_of_good(metrics.accuracy, metrics),
                test_loss=float(test.loss),
                test_accuracy=100 * float(test.accuracy),
                lambda_max=None if sharpness is None else float(sharpness.lambda_max),
                angle=None if sharpness is None else float(sharpness.angle),
                seconds=time.perf_counter() - started,
                bad_steps=bad_steps,
                step_losses=numbers_of(step_metrics[-1].loss),
            )
        )
        folder.write_metrics(history)
        every = config.checkpoint_every
        if every and epoch % every == 0 and epoch < config.epochs:
            save(state, metrics)
        report(state, metrics)
    return Snapshot(state, metrics, step_metrics, history, earlier)


def _no_end(state: TrainState, place: Path | None) -> str:
    """What is said when a run gives up after too many bad steps in a row, and is saved there."""
    bad, last = int(state.bad_steps), int(state.step)
    return f"loss or update not finite {bad} times in a row, first in step {last - bad + 1}" + (
        "."
        if place is None
        else f": the state before it is in the checkpoint {place}, from which experiments.train "
        "goes on with a larger --max-bad-steps."
    )
