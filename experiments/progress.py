"""What a run tells while it goes on, and the bar that shows it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class Report(NamedTuple):
    """A moment of a run.

    Attributes:
        epoch: The current epoch, counted from 1.
        epochs: All epochs.
        step: Steps taken.
        steps: All steps.
        loss: Mean training loss of the epoch so far, NaN before the first step.
        accuracy: Mean training accuracy of the epoch so far, percent, NaN before the first step.
        eigenvalue: Top Hessian eigenvalue: the method's own running estimate where it has one, else
            the last measured one, None before there is any.
        angle: Degrees in [0, 90] between the gradient and the eigenvector, from the same source.
        test_accuracy: After the last epoch that has ended, percent, None before.
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


OnProgress = Callable[[Report], None]


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
    if report.eigenvalue is not None:
        parts.append(f"λ {report.eigenvalue:.2f}")
    if report.angle is not None:
        parts.append(f"angle {report.angle:.0f}°")
    if report.test_accuracy is not None:
        parts.append(f"test {report.test_accuracy:.1f}%")
    return " ".join(parts)
