"""Draws the curves of a run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from experiments.common.drawing import COLORS, png
from experiments.common.files import write_atomically
from experiments.training.step import EpochMetrics, StepMetrics

# Train and test differ in their dashes as well.
_TRAIN, _TEST, _CURVATURE, _ANGLE = COLORS[:4]


def write_curves(
    out: Path,
    epochs: Sequence[EpochMetrics],
    steps: Sequence[StepMetrics],
    title: str,
    tested_on: str,
) -> None:
    """Draw loss, accuracy, curvature and angle over the epochs into curves.png.

    Args:
        out: Directory of the run.
        epochs: Its metrics.
        steps: Metrics of the steps of each epoch, drawn faintly behind the epochs'.
        title: Title of the figure.
        tested_on: The images of the accuracies, in words.
    """
    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle(title)
    (loss, accuracy), (curvature, angle) = figure.subplots(2, 2)
    last = epochs[-1].epoch
    for axes in (loss, accuracy, curvature, angle):
        axes.set(xlabel="epoch", xlim=(0, last * 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)

    _faint_line(loss, np.concatenate([s.loss for s in steps]), last)
    _line(loss, [(e.epoch, e.train_loss) for e in epochs], _TRAIN, "-", "train, mean of epoch")
    _line(loss, [(e.epoch, e.test_loss) for e in epochs], _TEST, "--", "test")
    loss.set(ylabel="cross-entropy (nats)", title="Loss", yscale="log")
    loss.legend()

    _faint_line(accuracy, 100 * np.concatenate([s.accuracy for s in steps]), last)
    _line(accuracy, [(e.epoch, e.train_accuracy) for e in epochs], _TRAIN, "-", "train")
    _line(accuracy, [(e.epoch, e.test_accuracy) for e in epochs], _TEST, "--", "test")
    accuracy.set(
        ylabel="accuracy (%)", title=f"Accuracy: {epochs[-1].test_accuracy:.2f} % on {tested_on}"
    )

    _line(curvature, [(e.epoch, e.lambda_max) for e in epochs], _CURVATURE)
    curvature.set(
        ylabel=r"$\lambda_{\max}$ (loss per squared parameter)",
        title="Largest Hessian eigenvalue, training subset",
        ylim=(0, None),
    )

    _line(angle, [(e.epoch, e.angle) for e in epochs], _ANGLE)
    angle.axhline(90, color="0.6", linewidth=1)
    angle.set(
        ylabel="angle (degrees)",
        title="Angle between SAM's gradient and the top eigenvector",
        ylim=(0, 93),
        yticks=range(0, 91, 15),
    )

    write_atomically(out / "curves.png", png(figure, dpi=120))


def _faint_line(axes: Axes, values: NDArray[np.float32], epochs: int) -> None:
    xs = np.arange(1, len(values) + 1) * epochs / len(values)
    axes.plot(xs, values, color=_TRAIN, linewidth=0.8, alpha=0.35, label="train, each step")


def _line(
    axes: Axes,
    points: Sequence[tuple[int, float | None]],
    color: str,
    dashes: str = "-",
    label: str | None = None,
) -> None:
    measured = [point for point in points if point[1] is not None]
    if measured:
        # Markers show where measurements are few and merge into the line where they are many.
        axes.plot(*zip(*measured, strict=True), dashes, color=color, label=label, marker=".")
    else:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center")
