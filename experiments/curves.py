"""The curves of a run, for a look."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.results import EpochMetrics, write_atomically

# Okabe and Ito's colours, which colour-blind readers can tell apart; markers and dashes as well.
_TRAIN, _TEST, _CURVATURE, _ANGLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"


def write_curves(out: Path, epochs: Sequence[EpochMetrics], title: str) -> None:
    """Draw loss, accuracy, curvature and angle over the epochs into curves.png.

    Args:
        out: Directory of the run.
        epochs: Its metrics.
        title: Title of the figure.
    """
    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle(title)
    (loss, accuracy), (curvature, angle) = figure.subplots(2, 2)
    xs = [epoch.epoch for epoch in epochs]
    few = len(epochs) <= 50

    def line(
        axes: Axes, values: Sequence[float | None], color: str, label: str, dashes: str = "-"
    ) -> None:
        measured = [(x, y) for x, y in zip(xs, values, strict=True) if y is not None]
        if measured:
            marker = "o" if few else ""
            axes.plot(
                *zip(*measured, strict=True),
                dashes,
                color=color,
                label=label,
                marker=marker,
                markersize=3,
            )
        else:
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center")

    line(loss, [e.train_loss for e in epochs], _TRAIN, "train, augmented")
    line(loss, [e.test_loss for e in epochs], _TEST, "test", "--")
    loss.set(ylabel="cross-entropy (nats)", title="Loss", yscale="log")
    line(accuracy, [e.train_accuracy for e in epochs], _TRAIN, "train, augmented")
    line(accuracy, [e.test_accuracy for e in epochs], _TEST, "test", "--")
    accuracy.set(
        ylabel="accuracy (%)", title=f"Accuracy: {epochs[-1].test_accuracy:.2f} % on the test set"
    )
    line(curvature, [e.lambda_max for e in epochs], _CURVATURE, "largest eigenvalue")
    curvature.set(
        ylabel=r"$\lambda_{\max}$ (loss per squared parameter)",
        title="Largest Hessian eigenvalue, training subset",
        ylim=(0, None),
    )
    line(angle, [e.angle for e in epochs], _ANGLE, "angle")
    angle.axhline(90, color="0.6", linewidth=1)
    angle.set(
        ylabel="angle (degrees)",
        title="Angle between SAM's gradient and the top eigenvector",
        ylim=(0, 93),
        yticks=range(0, 91, 15),
    )
    for axes in (loss, accuracy, curvature, angle):
        axes.set_xlabel("epoch")
        axes.set_xlim(min(xs) - 0.5, max(xs) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    loss.legend()
    accuracy.legend(loc="lower right")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_atomically(out / "curves.png", image.getvalue())
