"""Reports of a run that goes on, the bar that shows them, and its bad steps."""

import math
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np
import optax
from numpy.typing import NDArray
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from experiments.training.step import EpochMetrics, StepMetrics, TrainState


class Report(NamedTuple):
    """What is shown of a run at one moment.

    Attributes:
        epoch: The current epoch, counted from 1.
        epochs: All epochs.
        step: Steps taken.
        steps: All steps.
        loss: Mean training loss of the epoch so far, NaN before the first step.
        accuracy: Mean training accuracy of the epoch so far, percent, NaN before the first step.
        eigenvalue: Top Hessian eigenvalue: the method's own running estimate where it has one, else
            the last measured one, None before there is any.
        angle: Degrees in [0, 90] between the gradient and the eigenvector, likewise.
        test_accuracy: After the last epoch that has ended, percent, None before.
        estimated: Which of ``eigenvalue`` and ``angle`` are the method's estimates, of the last
            mini-batches; the others are measured, see `Sharpness`.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    eigenvalue: float | None
    angle: float | None
    test_accuracy: float | None
    estimated: Collection[str] = ()


OnProgress = Callable[[Report], None]


def report_of(
    epochs: int, state: TrainState, metrics: StepMetrics, history: list[EpochMetrics]
) -> Report:
    """Make the report of a run at one moment.

    Args:
        epochs: Those of the whole run.
        state: The state now.
        metrics: Of the steps of this epoch.
        history: The finished epochs.

    Returns:
        The report.
    """
    step, steps = int(state.step), len(metrics.loss)
    epoch = max(step - 1, 0) // steps
    done = step - epoch * steps
    loss, accuracy = np.asarray(metrics.loss)[:done], np.asarray(metrics.accuracy)[:done]
    good = ~np.isnan(loss)
    measured = [line for line in history if line.lambda_max is not None]
    eigenvalue, angle = (measured[-1].lambda_max, measured[-1].angle) if measured else (None, None)
    estimates = _estimates(state.opt_state)
    return Report(
        epoch=epoch + 1,
        epochs=epochs,
        step=step,
        steps=epochs * steps,
        loss=float(loss[good].mean()) if good.any() else math.nan,
        accuracy=100 * float(accuracy[good].mean()) if good.any() else math.nan,
        eigenvalue=estimates.get("eigenvalue", eigenvalue),
        angle=estimates.get("angle", angle),
        test_accuracy=history[-1].test_accuracy if history else None,
        estimated=tuple(estimates),
    )


def _estimates(opt_state: optax.OptState) -> dict[str, float]:
    """What a method knows itself of eigenvalue and angle."""
    eigenvalue = optax.tree.get(opt_state, "eigenvalue")
    if eigenvalue is None or float(eigenvalue) == 0:  # a tracker's 0 is that it knows none
        return {}
    alignment = optax.tree.get(opt_state, "alignment")
    if alignment is None:
        return {"eigenvalue": float(eigenvalue)}
    angle = math.degrees(math.acos(min(abs(float(alignment)), 1.0)))
    return {"eigenvalue": float(eigenvalue), "angle": angle}


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """Show a live bar on the terminal, from the first report until the context ends.

    Yields:
        A function that moves the bar.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[metrics]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        expand=True,
    )
    task = bar.add_task("", metrics="")

    def show(report: Report) -> None:
        bar.update(
            task,
            total=report.steps,
            completed=report.step,
            description=f"epoch {report.epoch}/{report.epochs}",
            metrics=_describe(report),
        )
        bar.start()

    try:
        yield show
    finally:
        # A bar that was never shown would leave an empty line.
        if bar.live.is_started:
            bar.stop()


def _describe(report: Report) -> str:
    if report.step == 0:
        return "compiling"
    parts = [f"loss {report.loss:.3f}", f"acc {report.accuracy:.1f}%"]
    for source in ("estimated", "measured"):
        numbers = [
            text.format(value)
            for name, text in (("eigenvalue", "λ {:.2f}"), ("angle", "angle {:.0f}°"))
            if (value := getattr(report, name)) is not None
            and (name in report.estimated) == (source == "estimated")
        ]
        parts += [source, *numbers] if numbers else []
    if report.test_accuracy is not None:
        parts.append(f"test {report.test_accuracy:.1f}%")
    return " ".join(parts)


def report_bad_steps(epoch: int, loss: jax.Array | NDArray[np.float32]) -> list[int]:
    """Name the bad steps of an epoch on stderr.

    Args:
        epoch: Its number, from 1.
        loss: Of all its steps, NaN for the bad ones.

    Returns:
        Their numbers in the run, from 1.
    """
    bad: list[int] = ((epoch - 1) * len(loss) + 1 + np.flatnonzero(np.isnan(loss))).tolist()
    if bad:
        steps = f"step{'s' * (len(bad) > 1)} {', '.join(map(str, bad))}"
        print(f"epoch {epoch}: left out {steps}, not finite", file=sys.stderr)
    return bad


def numbers_of(losses: jax.Array) -> list[float]:
    """Losses as metrics.jsonl has them: the shortest decimals that are still the same numbers."""
    return [float(str(loss)) for loss in np.asarray(losses)]


def mean_of_good(values: jax.Array, metrics: StepMetrics) -> float:
    """Average over the good steps; without bad ones as `numpy.mean` does, to the bit."""
    good = ~np.isnan(metrics.loss)
    if good.all():
        return float(np.mean(values))
    return float(np.asarray(values)[good].mean()) if good.any() else math.nan
