"""Does a training run, from its options to its result: `train`."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

from experiments.common.machine import versions
from experiments.training.checkpoint import last_whole
from experiments.training.chunk import placed
from experiments.training.config import ResolvedConfig, TrainConfig
from experiments.training.devices import ONE_DEVICE, Devices
from experiments.training.hosts import first
from experiments.training.loop import beginning, take_all_steps
from experiments.training.program import Observe, Program, prepare
from experiments.training.progress import OnProgress
from experiments.training.record import read_finished
from experiments.training.run_folder import Result, RunFolder, finished, open_run
from experiments.training.step import EpochMetrics, TrainState


class Run(NamedTuple):
    """The result of a training, with its epochs and its final state.

    Attributes:
        result: What result.json holds.
        epochs: The lines of metrics.jsonl.
        state: All that training changed; None of a run that was finished before, where its weights
            are gone.
    """

    result: Result
    epochs: list[EpochMetrics]
    state: TrainState | None


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
    """Train a network as the options say.

    A run that is in its folder already, finished, is read from there and not trained again. One
    that was finished with fewer epochs goes on from its end, see `TrainConfig`.

    Args:
        config: The run; None fields take their defaults, see `resolve`.
        keep: Write config.json, metrics.jsonl, result.json and curves.png, checkpoints on the way,
            and the last one at the end, from which `experiments.load` takes the weights. A run that
            was stopped goes on from its last checkpoint, with the numbers it would have had; only
            its wall times differ. Otherwise no file is read or written.
        progress: Called about twice a second and after every epoch. Without it an epoch is one
            dispatch. It changes no number.
        observe: Wraps the method; what it measures is kept in the state of the optimizer.
        on_end: Called with the final state, before result.json marks the run as finished.
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
    if keep and first(partial(finished, resolved)):
        return _read(resolved, program, on_end)
    none = nullcontext(RunFolder(resolved, kept=False))
    with open_run(resolved, tensorboard) if keep else none as folder:
        folder.write_inputs(program.data)
        state, _, step_metrics, history, earlier, continued_at = take_all_steps(
            resolved, program, folder, progress, stopping
        )
        last = history[-1]
        if draw:
            folder.write_curves(history, step_metrics, continued_at)
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
            continued_at=list(continued_at),
        )
        if on_end is not None:
            on_end(state)
        folder.finish(result)
        return Run(result, history, state)


def _read(
    config: ResolvedConfig, program: Program, on_end: Callable[[TrainState], None] | None
) -> Run:
    """A finished run as its folder has it."""
    result, epochs = first(partial(read_finished, config.out))
    state = None
    if first(partial(last_whole, config.out)) is not None:
        found = RunFolder(config).restore(beginning(config, program)[1])
        assert found is not None
        state = placed(found.state, program.devices)
        if on_end is not None:
            on_end(state)
    return Run(result, epochs, state)
