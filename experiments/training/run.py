"""Training runs, with their files: `train`."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import jax
import numpy as np

from experiments.common.errors import (
    BadNumbers,
    Stopped,
)
from experiments.common.machine import versions
from experiments.training import checkpoint
from experiments.training.checkpoint import Snapshot
from experiments.training.chunk import empty_metrics, placed, take_steps
from experiments.training.config import ResolvedConfig, TrainConfig, canonical
from experiments.training.curves import write_curves
from experiments.training.devices import ONE_DEVICE, Devices
from experiments.training.hosts import any_of, check_same, everywhere, first
from experiments.training.program import Observe, Program, program_of, start
from experiments.training.progress import (
    OnProgress,
    mean_of_good,
    report_bad_steps,
    report_of,
)
from experiments.training.resolve import resolve
from experiments.training.run_folder import Result, open_run, write_metrics, write_result
from experiments.training.step import EpochMetrics, StepMetrics, TrainState


def train(
    config: TrainConfig,
    *,
    progress: OnProgress | None = None,
    observe: Observe | None = None,
    on_end: Callable[[TrainState], None] | None = None,
    draw: bool = True,
    stopping: Callable[[], bool] | None = None,
    devices: Devices = ONE_DEVICE,
) -> Result:
    """Train a network and write config.json, metrics.jsonl, result.json and curves.png.

    A run that was stopped before goes on from its last checkpoint, with the numbers it would have
    had; only its wall times differ.

    Args:
        config: The run; None fields take their defaults, see `resolve`.
        progress: Called about twice a second and after every epoch. Without it an epoch is one
            dispatch. It changes no number.
        observe: Wraps the method; what it measures is kept in the state of the optimizer.
        on_end: Called with the final state before result.json marks the run as finished.
        draw: Write curves.png.
        stopping: Asked about twice a second whether to save the run and stop. It changes no number.
        devices: Those to use; they change the numbers by rounding errors only.

    Returns:
        What result.json holds.

    Raises:
        UserError: A value is out of range, the data are missing or damaged, or the directory holds
            another run. Nothing has been written then. Or a checkpoint cannot be written.
        BadNumbers: Too many bad steps in a row; the run has been saved.
        Stopped: ``stopping`` said so.
    """
    started = time.perf_counter()
    resolved = everywhere(partial(resolve, config))
    check_same("options and versions", f"{canonical(resolved)} {devices.fsdp} {versions()}")
    program = everywhere(partial(program_of, resolved, observe, devices))
    with ExitStack() as held:
        first(partial(open_run, resolved, held))
        state, _, step_metrics, history, earlier = _run(resolved, program, progress, stopping)
        last = history[-1]
        if draw:
            title = (
                f"{resolved.method}, {resolved.model} on {resolved.dataset}, seed {resolved.seed}"
            )
            tested_on = "the test set" if resolved.validation_images is None else "held-out images"
            first(partial(write_curves, resolved.out, history, step_metrics, title, tested_on))
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
        first(partial(write_result, resolved.out, result))
        first(partial(checkpoint.remove, resolved.out))
        return result


def _run(
    config: ResolvedConfig,
    program: Program,
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
    found = first(partial(checkpoint.restore, config.out, canonical(config), snapshot))
    if found is not None:
        snapshot = found
        state, metrics = placed(found.state, devices), devices.replicate(found.metrics)
    _, _, step_metrics, history, earlier = snapshot
    first(partial(write_metrics, config.out, history))

    def save(state: TrainState, metrics: StepMetrics) -> None:
        seconds = earlier + time.perf_counter() - began
        state, metrics = devices.fetch((state, metrics))
        snapshot = Snapshot(state, metrics, step_metrics, history, seconds)
        first(partial(checkpoint.save, config.out, canonical(config), snapshot))

    def report(state: TrainState, metrics: StepMetrics) -> None:
        if 0 < config.max_bad_steps <= int(state.bad_steps):
            save(state, metrics)
            raise BadNumbers(no_end(config.out, state))
        if progress is not None:
            progress(report_of(config.epochs, state, metrics, history))
        if any_of(stopping is not None and stopping()):
            save(state, metrics)
            raise Stopped(
                f"stopped after step {int(state.step)} of {config.epochs * steps}; the same "
                f"command goes on from the checkpoint in {config.out}"
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
            )
        )
        first(partial(write_metrics, config.out, history))
        every = config.checkpoint_every
        if every and epoch % every == 0 and epoch < config.epochs:
            save(state, metrics)
        report(state, metrics)
    return Snapshot(state, metrics, step_metrics, history, earlier)


def no_end(out: Path, state: TrainState) -> str:
    """What is said when a run gives up.

    Args:
        out: Folder of the run, where a checkpoint of ``state`` lies.
        state: The state after the last of too many bad steps in a row.
    """
    bad, last = int(state.bad_steps), int(state.step)
    return (
        f"loss or update not finite {bad} times in a row, first in step {last - bad + 1}: the "
        f"state before it is in the checkpoint {checkpoint.place_of(out, last)}, from which "
        "experiments.train goes on with a larger --max-bad-steps."
    )
