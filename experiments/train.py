"""Train a network on small images with X-SAM or a method it is compared with.

``python -m experiments.train`` trains the six-layer CNN on scikit-learn's digits with X-SAM;
``--help`` explains every option. The same from Python: ``train(TrainConfig(method="sam"))``. Ctrl-C
and SIGTERM finish the step and save the run; the same command, or one after any other end, goes on
from the last checkpoint.
"""

import math
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
import optax
from numpy.typing import NDArray

from experiments import checkpoint
from experiments.checkpoint import Snapshot
from experiments.config import ResolvedConfig, TrainConfig, resolve
from experiments.curves import write_curves
from experiments.errors import BadNumbers, command_line, exit_on_user_error
from experiments.program import Observe, Program, program_of, start
from experiments.progress import OnProgress, Report, progress_bar
from experiments.results import (
    EpochMetrics,
    Result,
    open_run,
    versions,
    write_metrics,
    write_result,
)
from experiments.step import StepMetrics, TrainState, empty_metrics, take_steps
from experiments.stopping import Stopped, graceful_stop


def train(
    config: TrainConfig,
    *,
    progress: OnProgress | None = None,
    observe: Observe | None = None,
    on_end: Callable[[TrainState], None] | None = None,
    draw: bool = True,
    stopping: Callable[[], bool] | None = None,
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

    Returns:
        What result.json holds.

    Raises:
        UserError: A value is out of range, the data are missing or damaged, or the directory holds
            another run. Nothing has been written then. Or a checkpoint cannot be written.
        BadNumbers: Too many bad steps in a row; the run has been saved.
        Stopped: ``stopping`` said so.
    """
    started = time.perf_counter()
    resolved = resolve(config)
    program = program_of(resolved, observe)
    open_run(resolved)
    state, _, step_metrics, history, earlier = _run(resolved, program, progress, stopping)
    last = history[-1]
    if draw:
        write_curves(
            resolved.out,
            history,
            step_metrics,
            f"{resolved.method}, {resolved.model} on {resolved.dataset}, seed {resolved.seed}",
        )
    trace = None
    if resolved.trace_probes:
        trace = program.trace(state.params, state.batch_stats, program.subset)
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
    write_result(resolved.out, result)
    checkpoint.remove(resolved.out)
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
    run_chunk, state = start(config, program)
    state, metrics, step_metrics, history, earlier = checkpoint.restore(
        config.out, Snapshot(state, empty_metrics(steps), [], [], 0.0)
    )
    write_metrics(config.out, history)

    def save(state: TrainState, metrics: StepMetrics) -> None:
        seconds = earlier + time.perf_counter() - began
        checkpoint.save(config.out, Snapshot(state, metrics, step_metrics, history, seconds))

    def report(state: TrainState, metrics: StepMetrics) -> None:
        if 0 < config.max_bad_steps <= int(state.bad_steps):
            save(state, metrics)
            raise BadNumbers(_no_end(config, state))
        if progress is not None:
            progress(_report(config.epochs, state, metrics, history))
        if stopping is not None and stopping():
            save(state, metrics)
            raise Stopped(
                f"stopped after step {int(state.step)} of {config.epochs * steps}; the same "
                f"command goes on from the checkpoint in {config.out}"
            )

    report(state, metrics)
    for epoch in range(len(history) + 1, config.epochs + 1):
        started = time.perf_counter()
        on_chunk = None if progress is None and stopping is None else report
        state, metrics = take_steps(
            run_chunk, state, metrics, program.train_data, epoch * steps, on_chunk=on_chunk
        )
        if on_chunk is None:
            report(state, metrics)
        # Copies, because the next epoch overwrites the buffers.
        step_metrics.append(jax.tree.map(np.array, metrics))
        test = program.evaluate(state.params, state.batch_stats, program.test_data)
        every = config.curvature_every
        measured = every > 0 and (epoch % every == 0 or epoch == config.epochs)
        sharpness = (
            program.measure(state.params, state.batch_stats, program.subset) if measured else None
        )
        good = ~np.isnan(step_metrics[-1].loss)
        bad_steps = ((epoch - 1) * steps + 1 + np.flatnonzero(~good)).tolist()
        if bad_steps:
            print(f"epoch {epoch}: left out {_listed(bad_steps)}, not finite", file=sys.stderr)
        history.append(
            EpochMetrics(
                epoch=epoch,
                train_loss=_mean(metrics.loss, good),
                train_accuracy=100 * _mean(metrics.accuracy, good),
                test_loss=float(test.loss),
                test_accuracy=100 * float(test.accuracy),
                lambda_max=None if sharpness is None else float(sharpness.lambda_max),
                angle=None if sharpness is None else float(sharpness.angle),
                seconds=time.perf_counter() - started,
                bad_steps=bad_steps,
            )
        )
        write_metrics(config.out, history)
        every = config.checkpoint_every
        if every and epoch % every == 0 and epoch < config.epochs:
            save(state, metrics)
        report(state, metrics)
    return Snapshot(state, metrics, step_metrics, history, earlier)


def _mean(values: jax.Array, good: NDArray[np.bool_]) -> float:
    """The mean over the good steps; over all of them by the reduction of runs without bad ones."""
    if good.all():
        return float(np.mean(values))
    return float(np.asarray(values)[good].mean()) if good.any() else math.nan


def _listed(steps: list[int]) -> str:
    return f"step{'s' * (len(steps) > 1)} {', '.join(map(str, steps))}"


def _no_end(config: ResolvedConfig, state: TrainState) -> str:
    bad, last = int(state.bad_steps), int(state.step)
    return (
        f"loss or update not finite {bad} times in a row, first in step {last - bad + 1}: the "
        f"state before it is in the checkpoint {checkpoint.place_of(config.out, last)}, and the "
        "same command with a larger --max-bad-steps goes on from there."
    )


def _report(
    epochs: int, state: TrainState, metrics: StepMetrics, history: list[EpochMetrics]
) -> Report:
    step, steps = int(state.step), len(metrics.loss)
    epoch = max(step - 1, 0) // steps
    done = step - epoch * steps
    loss, accuracy = np.asarray(metrics.loss)[:done], np.asarray(metrics.accuracy)[:done]
    good = ~np.isnan(loss)
    measured = [line for line in history if line.lambda_max is not None]
    eigenvalue = optax.tree.get(state.opt_state, "eigenvalue")
    if eigenvalue is None and measured:
        eigenvalue = measured[-1].lambda_max
    alignment = optax.tree.get(state.opt_state, "alignment")
    angle = measured[-1].angle if measured else None
    if alignment is not None:
        angle = math.degrees(math.acos(min(abs(float(alignment)), 1.0)))
    return Report(
        epoch=epoch + 1,
        epochs=epochs,
        step=step,
        steps=epochs * steps,
        loss=float(loss[good].mean()) if good.any() else math.nan,
        accuracy=100 * float(accuracy[good].mean()) if good.any() else math.nan,
        eigenvalue=None if eigenvalue is None else float(eigenvalue),
        angle=angle,
        test_accuracy=history[-1].test_accuracy if history else None,
    )


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        config = command_line(TrainConfig, "experiments.train")
        with graceful_stop() as stopping, progress_bar() as progress:
            result = train(config, progress=progress, stopping=stopping)
        out = resolve(config).out
        print(f"test accuracy {result.test_accuracy:.2f} %, results in {out}")


if __name__ == "__main__":
    main()
