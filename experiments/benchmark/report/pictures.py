"""The pictures of a report."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.common.drawing import COLORS, DASHES, MARKERS, png
from experiments.workers.store import Line

# More lines than seven could not be told apart.
_SHOWN = ("sgd", "sam", "normalized_sam", "xsam", "xsam_p100", "xsam_projector", "xsam_oja")

# Guessing among 100 classes costs 4.6 nats: beyond this a run diverges, and would set the scale.
_HIGHEST_LOSS = 10.0


def accuracies(title: str, runs: Mapping[str, Sequence[Line]]) -> bytes:
    """Draw the test accuracy of every run, and each method's mean.

    Args:
        title: Title.
        runs: Method to its runs.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(9, 0.38 * len(runs) + 1.6), layout="constrained")
    axes = figure.subplots()
    for row, lines in enumerate(runs.values()):
        values = [line["result"]["test_accuracy"] for line in lines]
        axes.plot(values, [row] * len(values), "o", color=COLORS[0], alpha=0.35, markersize=5)
        axes.plot(np.mean(values), row, "|", color=COLORS[1], markersize=16, markeredgewidth=2.5)
    axes.set_yticks(range(len(runs)), list(runs))
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy (%); a dot a run, the bar is their mean", title=title)
    axes.grid(alpha=0.3)
    return png(figure, dpi=100)


def curves(title: str, runs: Mapping[str, Sequence[Line]]) -> bytes:
    """Draw loss, test accuracy and largest eigenvalue over the epochs, means over the seeds.

    Args:
        title: Title.
        runs: Method to its runs.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    figure.suptitle(title)
    shown = {method: lines for method, lines in runs.items() if method in _SHOWN}
    parts: Sequence[Axes] = figure.subplots(1, 3)
    for axes, column, label in zip(
        parts,
        ("train_loss", "test_accuracy", "lambda_max"),
        ("training loss (nats)", "test accuracy (%)", r"$\lambda_{\max}$, training subset"),
        strict=True,
    ):
        for method, lines in shown.items():
            style = _SHOWN.index(method)
            values = np.array([line["epochs"][column] for line in lines], float)
            measured = np.isfinite(values).all(axis=0)
            epochs = np.arange(1, values.shape[1] + 1)[measured]
            axes.plot(
                epochs,
                values[:, measured].mean(axis=0),
                color=COLORS[style],
                linestyle=DASHES[style],
                marker=MARKERS[style] if len(epochs) < 15 else None,
                markersize=4,
                label=method,
            )
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    parts[0].set_yscale("log")
    parts[0].set_ylim(top=min(parts[0].get_ylim()[1], _HIGHEST_LOSS))
    parts[0].legend(fontsize=8)
    return png(figure, dpi=100)
