"""Fig. 1: the angle between SAM's second gradient and the dominant eigenvector."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from experiments.common.drawing import COLORS, new_figure, write_figure, write_table
from experiments.common.options import AT_LEAST_ONE, check
from experiments.figures.alignment import Measured, measure, observe
from experiments.figures.options import FigureOptions, size_of_runs, train_config
from experiments.figures.runs import arrays, read_arrays, run_once
from experiments.training.resolve import resolve
from experiments.training.step import TrainState

_BIN = 5  # degrees
_ORTHOGONAL = 80  # degrees, folded: the paper's range from 80 to 100


@dataclass(frozen=True, kw_only=True)
class Angle(FigureOptions):
    """Fig. 1: angle between SAM's second gradient and the top eigenvector, and what a step does.

    A histogram, and the change of the eigenvalue by the step.
    """

    every: int = 5
    """Steps between two measurements."""
    num_matvecs: int = 16
    """Hessian-vector products of the Lanczos method, before the step and after it."""


def histogram(degrees: NDArray[np.floating[Any]]) -> tuple[NDArray[np.intp], NDArray[np.int_]]:
    """Count angles in bins of 5 degrees, without those that are NaN."""
    edges = np.arange(0, 91, _BIN)
    return np.histogram(np.minimum(degrees[np.isfinite(degrees)], 90), edges)[0], edges


def make(options: Angle) -> None:
    """Train with SAM and write angle.png and angle.csv."""
    check("every", options.every, AT_LEAST_ONE)
    check("num-matvecs", options.num_matvecs, AT_LEAST_ONE)
    name = f"angles-and-changes-{options.every}-{options.num_matvecs}.npz"
    rho = resolve(train_config(options, method="sam")).rho
    # One for all seeds: a run is compiled anew for another one.
    measurement = partial(
        measure, rho=rho, learning_rate=options.learning_rate, num_matvecs=options.num_matvecs
    )
    watch = partial(observe, every=options.every, measurement=measurement)
    rows, tables = [], []
    for seed in options.seeds:
        config = train_config(options, method="sam", seed=seed, curvature_every=0)
        run = run_once(config, options.runs, observe=watch, save={name: _measurements})
        table = Measured(*read_arrays(run.out / name, Measured._fields))
        tables.append(table)
        rows += [
            (seed, i * options.every, *map(float, row))
            for i, row in enumerate(zip(*table, strict=True))
            if np.isfinite(row[0])
        ]
    write_table(options.out / "angle.csv", ("seed", "step", *Measured._fields), rows)

    all_ = Measured(*(np.concatenate(column) for column in zip(*tables, strict=True)))
    figure = new_figure(
        15,
        4.6,
        "Angle between SAM's second gradient and the dominant Hessian eigenvector",
        f"{size_of_runs(options)}; mini-batch Hessian every {options.every} steps",
    )
    left, middle, right = figure.subplots(1, 3)
    middle.sharey(left)
    _bars(left, all_.plain, "Plain", COLORS[0])
    _bars(middle, all_.layerwise, "Layerwise, the gradient of each layer normalised", COLORS[1])
    left.set_ylabel("measurements")
    _changes(right, all_)
    write_figure(figure, options.out / "angle.png")


def share_of_orthogonal(degrees: NDArray[np.floating[Any]]) -> tuple[float, int]:
    """Percent of the folded angles that lie in [80, 90], and the number of angles.

    An angle that is not a number is none.
    """
    known = degrees[np.isfinite(degrees)]
    return 100 * float(np.mean(known >= _ORTHOGONAL)), known.size


def median_changes(measured: Measured) -> tuple[float, float]:
    """Median relative changes of the eigenvalue: at angles below 80 degrees, and from 80 on."""
    known = np.isfinite(measured.change)
    orthogonal = measured.plain >= _ORTHOGONAL
    groups = (measured.change[known & group] for group in (~orthogonal, orthogonal))
    below, above = (float(np.median(group)) if group.size else math.nan for group in groups)
    return below, above


def _measurements(state: TrainState) -> bytes:
    observed: Any = state.opt_state
    return arrays(**observed.measured._asdict())


def _bars(axes: Axes, degrees: NDArray[np.floating[Any]], title: str, color: str) -> None:
    counts, edges = histogram(degrees)
    share, number = share_of_orthogonal(degrees)
    axes.bar(edges[:-1], counts, width=_BIN, align="edge", color=color, edgecolor="white")
    _over_angles(
        axes,
        xlabel="angle (degrees; 100 counts as 80)",
        title=f"{title}\n{share:.0f} % of {number} are "
        f"between 80 and 100 (grey; paper: about 45 %)",
    )


def _changes(axes: Axes, measured: Measured) -> None:
    below, above = (f"{100 * change:+.2g} %" for change in median_changes(measured))
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.scatter(measured.plain, 100 * measured.change, s=14, color=COLORS[0])
    axes.set_yscale("symlog", linthresh=1)
    _over_angles(
        axes,
        xlabel="plain angle (degrees)",
        ylabel="change of the eigenvalue by one step of SAM (%)",
        title=f"What a step does to the eigenvalue\nmedian {below} below 80 degrees, {above} above",
    )


def _over_angles(axes: Axes, **texts: str) -> None:
    axes.axvspan(_ORTHOGONAL, 90, color="0.9", zorder=0)
    axes.set(xlim=(0, 90), xticks=range(0, 91, 10), **texts)
    axes.title.set_fontsize(9.5)
    axes.grid(axis="y", alpha=0.3)
