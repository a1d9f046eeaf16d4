"""Writes the table and the figure from the runs of a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from experiments.common.drawing import COLORS, MARKERS, new_figure, write_figure, write_table
from experiments.common.files import read_json
from experiments.tracking.measure import OWN_BATCH
from experiments.tracking.problems import SETTINGS, SettingName
from experiments.tracking.watcher import Family, Watcher

_FAMILIES: dict[Family, str] = {
    "authors": "X-SAM's authors' schedule",
    "products": "products of the whole batch",
    "shared": "products at w+e, sharing SAM's gradient",
    "part": "products of a part of the batch",
    "free": "no product",
}
# setting -> tracker -> one mean over the measurements for each seed
Scores = Mapping[SettingName, Mapping[str, NDArray[np.float64]]]


def scores(runs: list[Mapping[str, Any]], of: str) -> Scores:
    """Average a measurement of every tracker, such as its quality, for each setting and seed.

    Of the trackers that all runs of a setting have.
    """
    found: dict[SettingName, dict[str, NDArray[np.float64]]] = {}
    for name in SETTINGS:
        of_setting = [run[of] for run in runs if run["setting"] == name and of in run]
        if of_setting:
            found[name] = {
                tracker: np.array([np.mean(run[tracker]) for run in of_setting])
                for tracker in of_setting[0]
                if all(tracker in run for run in of_setting)
            }
    return found


def read_runs(folder: Path) -> list[Mapping[str, Any]]:
    """Read all finished runs, seed by seed."""
    runs = [read_json(file) for file in (folder / "runs").glob("*.json")]
    return sorted(runs, key=lambda run: (run["seed"], run["setting"]))


def write_report(folder: Path, watchers: Mapping[str, Watcher]) -> None:
    """Write tracking.csv and tracking.png.

    Args:
        folder: Where the runs are.
        watchers: What was compared.

    Raises:
        UserError: The folder cannot be written.
    """
    runs = read_runs(folder)
    quality, cosine = scores(runs, "quality"), scores(runs, "cosine")
    in_evaluation = scores(runs, "quality_in_evaluation")
    rows = []
    for name, of_setting in quality.items():
        for tracker, values in of_setting.items():
            watcher = watchers.get(tracker)
            rows.append(
                (
                    name,
                    tracker,
                    None if watcher is None else watcher.cost,
                    len(values),
                    float(values.mean()),
                    float(values.std(ddof=1)) if len(values) > 1 else None,
                    float(values.min()),
                    float(cosine[name][tracker].mean()),
                    float(in_evaluation[name][tracker].mean()) if name in in_evaluation else None,
                )
            )
    header = (
        "setting",
        "tracker",
        "gradients_per_step",
        "seeds",
        "quality",
        "quality_deviation",
        "quality_of_worst_seed",
        "cosine",
        "quality_in_evaluation",
    )
    write_table(folder / "tracking.csv", header, rows)
    _draw(folder / "tracking.png", quality, watchers, runs[0]["options"])


def _draw(
    file: Path, quality: Scores, watchers: Mapping[str, Watcher], options: Mapping[str, int]
) -> None:
    seeds = len(next(iter(next(iter(quality.values())).values())))
    figure = new_figure(
        5.2 * len(quality) + 1,
        5.8,
        "Following the dominant eigenvector: quality against cost",
        f"SAM, {options['steps']} steps of {options['batch_size']} images, {seeds} seeds; quality "
        f"v'Hv / lambda_1 on at most {options['sample_size']} fixed images, mean from step "
        f"{options['burn_in']} on; bars: standard deviation over seeds; grey line: Pareto front; "
        "dotted: the exact eigenvector of each step's own batch",
    )
    all_axes = np.atleast_1d(figure.subplots(1, len(quality), sharey=True))
    for axes, (name, of_setting) in zip(all_axes, quality.items(), strict=True):
        for i, (family, label) in enumerate(_FAMILIES.items()):
            members = [n for n, w in watchers.items() if w.family == family and n in of_setting]
            for named in (False, True):
                some = [n for n in members if bool(watchers[n].label) == named]
                axes.errorbar(
                    [watchers[n].cost for n in some],
                    [of_setting[n].mean() for n in some],
                    yerr=[of_setting[n].std(ddof=1) for n in some] if seeds > 1 else None,
                    color=COLORS[i],
                    marker=MARKERS[i],
                    markersize=7 if named else 4,
                    alpha=1 if named else 0.3,
                    linestyle="",
                    capsize=3,
                    label=label if named == any(watchers[n].label for n in members) else None,
                )
        _name(
            axes,
            {
                w.label: (w.cost, float(of_setting[n].mean()))
                for n, w in watchers.items()
                if w.label and n in of_setting
            },
        )
        costs, best = pareto_front(
            [(watchers[n].cost, v.mean()) for n, v in of_setting.items() if n in watchers]
        )
        axes.plot(costs, best, color="0.6", zorder=0, drawstyle="steps-post")
        axes.axhline(of_setting[OWN_BATCH].mean(), color="0.3", linestyle=":", zorder=0)
        axes.set(title=SETTINGS[name].title, xlabel="gradients per step (SAM: 2)", xscale="log")
        ticks = {2: "2", 2.1: "2.1", 2.4: "2.4", 3: "3", 4: "4", 16 / 3: "5.3"}
        axes.set_xticks([*ticks], [*ticks.values()])
        axes.minorticks_off()
        axes.set_xlim(1.95, 8.5)  # room for labels
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel(r"quality $v^\top H v / \lambda_1$")
    all_axes[0].legend(fontsize=8, loc="lower right")
    write_figure(figure, file)


# Where the labels of the cheap and of the other trackers stand, in gradients a step, and the
# distance of two lines.
_COLUMNS, _LINE = (2.55, 5.7), 0.03


def _name(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write the labels in two columns, and lines from them to their points."""
    for column, low in zip(_COLUMNS, (0.0, _COLUMNS[0]), strict=True):
        some = sorted((y, x, label) for label, (x, y) in points.items() if low <= x < column)
        heights = spread([y for y, _, _ in some], _LINE)
        for (y, x, label), height in zip(some, heights, strict=True):
            axes.annotate(
                label,
                (x, y),
                xytext=(column, height),
                fontsize=8,
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
                arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.6},
            )


def spread(values: Sequence[float], distance: float) -> list[float]:
    """Move sorted values apart, by as little as it takes, so that labels do not overlap."""
    crowds: list[list[float]] = []
    for value in values:
        crowds.append([value])
        while (
            len(crowds) > 1
            and _ends(crowds[-2], distance)[1] + distance > (_ends(crowds[-1], distance)[0])
        ):
            last = crowds.pop()
            crowds[-1] += last
    return [_ends(crowd, distance)[0] + distance * i for crowd in crowds for i in range(len(crowd))]


def _ends(crowd: Sequence[float], distance: float) -> tuple[float, float]:
    half = distance * (len(crowd) - 1) / 2
    middle = sum(crowd) / len(crowd)
    return middle - half, middle + half


def pareto_front(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Find the Pareto front: what nothing cheaper or equally cheap surpasses."""
    costs: list[float] = []
    best: list[float] = []
    for cost, quality in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or quality > best[-1]:
            costs.append(cost)
            best.append(float(quality))
    return costs, best
