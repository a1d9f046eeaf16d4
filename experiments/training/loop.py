"""The epochs of a run, from its start or its last checkpoint to its end."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments.common.errors import BadNumbers, Stopped
from experiments.training.checkpoint import Snapshot
from experiments.training.chunk import RunChunk, empty_metrics, placed, take_steps
from experiments.training.config import ResolvedConfig
from experiments.training.hosts import any_of
from experiments.training.methods import knows_its_end
from experiments.training.program import Program, start
from experiments.training.progress import (
    OnProgress,
    mean_of_good,
    numbers_of,
    report_bad_steps,
    report_of,
)
from experiments.training.run_folder import RunFolder
from experiments.training.step import EpochMetrics, StepMetrics, TrainState


def beginning(config: ResolvedConfig, program: Program) -> tuple[RunChunk, Snapshot]:
    """A run before its first step, and what takes its steps."""
    run_chunk, state = start(config, program)
    metrics = program.devices.replicate(empty_metrics(program.steps))
    return run_chunk, Snapshot(state, metrics, [], [], 0.0)


def take_all_steps(
    config: ResolvedConfig,
    program: Program,
    folder: RunFolder,
    progress: OnProgress | None,
    stopping: Callable[[], bool] | None,
) -> Snapshot:
    """Take a run to its end.

    Args:
        config: The run.
        program: Its program.
        folder: Its folder; where it is kept the last checkpoint is that of the end.
        progress: See `train`.
        stopping: Likewise.

    Returns:
        The end; its seconds are those before this call.

    Raises:
        BadNumbers: See `train`.
        Stopped: Likewise.
    """
    began = time.perf_counter()
    steps = program.steps
    devices = program.devices
    run_chunk, snapshot = beginning(config, program)
    state, metrics = snapshot.state, snapshot.metrics
    found = folder.restore(snapshot)
    if found is not None:
        snapshot = found
        state, metrics = placed(found.state, devices), devices.replicate(found.metrics)
    _, _, step_metrics, history, earlier, continued_at = snapshot
    at_its_end = int(snapshot.state.step) == len(history) * steps
    goes_on = at_its_end and continued_at[-1:] == (len(history),)
    if not knows_its_end(config):
        continued_at = ()  # the numbers are those of a run of all epochs at once
    if goes_on and jax.process_index() == 0:
        print(_going_on(config, len(history), continued_at), file=sys.stderr)
    if continued_at:
        folder.write_continued(continued_at)
    folder.write_metrics(history)

    def save(state: TrainState, metrics: StepMetrics) -> Path | None:
        seconds = earlier + time.perf_counter() - began
        state, metrics = devices.fetch((state, metrics))
        now = Snapshot(state, metrics, step_metrics, history, seconds, continued_at)
        return folder.save(now)

    def report(state: TrainState, metrics: StepMetrics) -> None:
        if 0 < config.max_bad_steps <= int(state.bad_steps):
            raise BadNumbers(_no_end(state, save(state, metrics)))
        if progress is not None:
            progress(report_of(config.epochs, state, metrics, history))
        if any_of(stopping is not None and stopping()):
            place = save(state, metrics)
            later = f"the same command goes on from the checkpoint in {config.out}"
            raise Stopped(
                f"stopped after step {int(state.step)} of {config.epochs * steps}; "
                f"{later if place else 'nothing of it is kept'}"
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
    if folder.kept:
        save(state, metrics)
    return Snapshot(state, metrics, step_metrics, history, earlier, continued_at)


def _going_on(config: ResolvedConfig, epochs: int, continued_at: Sequence[int]) -> str:
    """What is said when a finished run is given more epochs."""
    now = f"going on from the end of the run of {epochs} epochs"
    if not continued_at:
        return now
    return (
        f"{now}: from here on the steps are those of {config.epochs} epochs ({config.schedule} "
        f"schedule), which is not a run of {config.epochs} epochs at once; config.json and "
        "result.json say so (continued_at)"
    )


def _no_end(state: TrainState, place: Path | None) -> str:
    """What is said when a run gives up after too many bad steps in a row, and is saved there."""
    bad, last = int(state.bad_steps), int(state.step)
    return f"loss or update not finite {bad} times in a row, first in step {last - bad + 1}" + (
        "."
        if place is None
        else f": the state before it is in the checkpoint {place}, from which experiments.train "
        "goes on with a larger --max-bad-steps."
    )
