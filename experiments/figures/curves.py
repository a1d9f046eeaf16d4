"""Fig. 2: loss, test accuracy and top eigenvalue over the epochs, for several methods."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from experiments.common.drawing import new_figure, style, write_figure, write_table
from experiments.common.options import distinct
from experiments.figures.options import FigureOptions, size_of_runs, train_config
from experiments.figures.runs import Run, run_once, weights
from experiments.training.config import Method
from experiments.training.resolve import resolve

_COLUMNS = ("epoch", "train_loss", "test_loss", "test_accuracy", "lambda_max")


@dataclass(frozen=True, kw_only=True)
class Curves(FigureOptions):
    """Fig. 2: loss, test accuracy and top eigenvalue over the epochs, for several methods."""

    methods: tuple[Method, ...] = ("sgd", "sam", "xsam", "xsam_projector")
    """Methods to compare."""
    curvature_every: int | None = None
    """Epochs between two measurements of the eigenvalue (None: as in experiments.train)."""
    curvature_samples: int | None = None
    """Training images on which the curvature is measured (None: as in experiments.train)."""
    num_matvecs: int = 12
    """Hessian-vector products of one measurement."""
    refresh_every: int | None = None
    """Steps between two refreshes of the eigenvector, the paper's p (None: each method's own)."""


def runs(options: Curves) -> dict[Method, list[Run]]:
    """Do the figure's runs, one of each method and seed; they keep their final weights."""
    distinct("methods", options.methods)
    return {
        method: [
            run_once(
                train_config(
                    options,
                    method=method,
                    seed=seed,
                    curvature_every=options.curvature_every,
                    curvature_samples=options.curvature_samples,
                    num_matvecs=options.num_matvecs,
                    refresh_every=options.refresh_every,
                ),
                options.runs,
                save={"weights.npz": weights},
            )
            for seed in options.seeds
        ]
        for method in options.methods
    }


def schedule(options: Curves) -> str:
    """Say X-SAM's p, for the caption."""
    return (
        f"p = {resolve(train_config(options, refresh_every=options.refresh_every)).refresh_every}"
    )


def make(options: Curves) -> None:
    """Train with all methods and write curves.png and curves.csv."""
    finished = runs(options)
    write_table(
        options.out / "curves.csv",
        ("method", "seed", *_COLUMNS),
        (
            (method, run.result.seed, *(getattr(epoch, column) for column in _COLUMNS))
            for method, of_method in finished.items()
            for run in of_method
            for epoch in run.epochs
        ),
    )
    spread = "; mean over the seeds, and their range" if len(options.seeds) > 1 else ""
    figure = new_figure(
        13,
        4.6,
        "Loss, accuracy and sharpness during training",
        f"{size_of_runs(options)}, {schedule(options)}{spread}",
    )
    loss, accuracy, sharpness = figure.subplots(1, 3)
    for axes, column, title, label in (
        (loss, "test_loss", "Test loss", "cross-entropy (nats)"),
        (accuracy, "test_accuracy", "Test accuracy", "accuracy (%)"),
        (
            sharpness,
            "lambda_max",
            "Largest Hessian eigenvalue, training subset",
            r"$\lambda_{\max}$ (loss per squared parameter)",
        ),
    ):
        _lines(axes, finished, column)
        axes.set(title=title, xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    loss.legend()
    write_figure(figure, options.out / "curves.png")


def _lines(axes: Axes, finished: dict[Method, list[Run]], column: str) -> None:
    for i, (method, of_method) in enumerate(finished.items()):
        epochs = np.array([epoch.epoch for epoch in of_method[0].epochs])
        # What was not measured, or is not finite, is NaN here.
        values = np.array(
            [[getattr(epoch, column) for epoch in run.epochs] for run in of_method], float
        )
        measured = np.isfinite(values).all(axis=0)
        epochs, values = epochs[measured], values[:, measured]
        if len(of_method) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            axes.fill_between(epochs, low, high, color=style(i)["color"], alpha=0.15)
        axes.plot(epochs, values.mean(axis=0), label=method, **style(i))
