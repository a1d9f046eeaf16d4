"""The table and the Pareto front, from the runs of a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.files import read_json
from experiments.plots.output import COLORS, MARKERS, new_figure, write_figure, write_table
from experiments.tracking.settings import SETTINGS, SettingName
from experiments.tracking.watch import OWN_BATCH
from experiments.tracking.watchers import Family, Watcher

_FAMILIES: dict[Family, str] = {
    "paper": "p=100 q=5, cold",
    "products": "products of the whole batch",
    "shared": "products at w+e, sharing SAM's gradient",
    "part": "products of a part of the batch",
    "free": "no product",
}
# setting -> tracker -> one mean over the measurements for each seed
Scores = Mapping[SettingName, Mapping[str, NDArray[np.float64]]]


def scores(runs: list[Mapping[str, Any]], of: str) -> Scores:
    """Mean ``quality`` or ``cosine`` of every tracker, a row of seeds for each setting."""
    found: dict[SettingName, dict[str, NDArray[np.float64]]] = {}
    for name in SETTINGS:
        of_setting = [run[of] for run in runs if run["setting"] == name]
        if of_setting:
            found[name] = {
                tracker: np.array([np.mean(run[tracker]) for run in of_setting])
                for tracker in of_setting[0]
            }
    return found


def read_runs(folder: Path) -> list[Mapping[str, Any]]:
    """All finished runs, seed by seed."""
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
    )
    write_table(folder / "tracking.csv", header, rows)
    _draw(folder / "tracking.png", quality, watchers, runs[0]["options"])


def _draw(
    file: Path, quality: Scores, watchers: Mapping[str, Watcher], options: Mapping[str, int]
) -> None:
    seeds = len(next(iter(next(iter(quality.values())).values())))
    figure = new_figure(
        4.6 * len(quality) + 1,
        5.4,
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
            axes.errorbar(
                [watchers[n].cost for n in members],
                [of_setting[n].mean() for n in members],
                yerr=[of_setting[n].std(ddof=1) for n in members] if seeds > 1 else None,
                color=COLORS[i],
                marker=MARKERS[i],
                linestyle="",
                capsize=3,
                label=label,
            )
        costs, best = pareto_front(
            [(watchers[n].cost, v.mean()) for n, v in of_setting.items() if n in watchers]
        )
        axes.plot(costs, best, color="0.6", zorder=0, drawstyle="steps-post")
        axes.axhline(of_setting[OWN_BATCH].mean(), color="0.3", linestyle=":", zorder=0)
        axes.set(title=SETTINGS[name].title, xlabel="gradients per step (SAM: 2)", xscale="log")
        axes.set_xticks([2, 2.1, 2.4, 3, 4], ["2", "2.1", "2.4", "3", "4"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel(r"quality $v^\top H v / \lambda_1$")
    all_axes[0].legend(fontsize=8, loc="lower right")
    write_figure(figure, file)


def pareto_front(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Costs and qualities of what no cheaper or equally cheap one surpasses."""
    costs: list[float] = []
    best: list[float] = []
    for cost, quality in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or quality > best[-1]:
            costs.append(cost)
            best.append(float(quality))
    return costs, best
