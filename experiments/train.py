"""Train a network on small images with X-SAM or a method it is compared with.

python -m experiments.train                 # X-SAM, six-layer CNN, digits: 20 seconds on two cores
python -m experiments.train --method sam --model mlp --seed 1

The same from Python: train(TrainConfig(method="sam")). Ctrl-C and SIGTERM finish the step and save
the run; the same command, or one after any other end, goes on from the last checkpoint. An option
that is None takes the default that its text names.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import jax
import numpy as np
import tyro

from experiments import checkpoint
from experiments.bad_steps import mean_of_good, no_end, report_bad_steps
from experiments.checkpoint import Snapshot
from experiments.config import ResolvedConfig, TrainConfig, resolve
from experiments.curves import write_curves
from experiments.devices import ONE_DEVICE, Devices, choose
from experiments.errors import BadNumbers, command_line, exit_on_user_error
from experiments.hosts import any_of, check_same, everywhere, first, joined
from experiments.ignored import refuse_ignored
from experiments.program import Observe, Program, program_of, start
from experiments.progress import OnProgress, progress_bar, report_of
from experiments.results import (
    EpochMetrics,
    Result,
    canonical,
    finished,
    open_run,
    versions,
    write_metrics,
    write_result,
)
from experiments.step import StepMetrics, TrainState, empty_metrics, placed, take_steps
from experiments.stopping import Stopped, graceful_stop


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


@dataclass(frozen=True, kw_only=True)
class _Command:
    """Train a network and record its accuracy and curvature."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    devices: int | None = None
    """How many devices to use (None: all). Each takes its part of every batch."""
    fsdp: bool = False
    """Keep only a part of the parameters, and of the optimizer's state, on each device."""
    coordinator: str | None = None
    """Several hosts: ADDRESS:PORT at which all can reach process 0, or `cluster` to take this and
    the following two from Slurm, Open MPI or another cluster that JAX knows. Start the same command
    on every host."""
    num_processes: int | None = None
    """Several hosts: number of processes, one on each."""
    process_id: int | None = None
    """Several hosts: which of them this is, counted from 0. Process 0 writes the results."""


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        command = command_line(_Command, "experiments.train", __doc__)
        with joined(command.coordinator, command.num_processes, command.process_id):
            resolved = everywhere(partial(resolve, command.config))
            everywhere(partial(refuse_ignored, command.config))
            devices = everywhere(partial(choose, command.devices, fsdp=command.fsdp))
            writes = jax.process_index() == 0
            if first(partial(finished, resolved)):
                if writes:
                    print(
                        f"{resolved.out} holds this run, finished: remove it, or name another "
                        "--out, to train again"
                    )
                return
            bar = progress_bar() if writes else nullcontext()
            with graceful_stop() as stopping, bar as progress:
                result = train(
                    command.config, progress=progress, stopping=stopping, devices=devices
                )
            if writes:
                print(f"test accuracy {result.test_accuracy:.2f} %, results in {resolved.out}")


if __name__ == "__main__":
    main()
