"""Tables of the trackers, of learning rates and of one large Hessian."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from experiments.common.files import read_json
from experiments.common.tables import markdown
from experiments.tracking.candidates import all_watchers

Rows = Sequence[Mapping[str, str]]


def tracking(results: Path, folder: str, *trackers: str) -> str:
    """Quality and cost of trackers of the eigenvector, all or some."""
    by_tracker: dict[str, dict[str, Mapping[str, str]]] = {}
    for row in read_csv(results / folder / "tracking.csv"):
        by_tracker.setdefault(row["tracker"], {})[row["setting"]] = row
    settings = dict.fromkeys(s for found in by_tracker.values() for s in found)
    titles = {name: watcher.title for name, watcher in all_watchers().items()}
    rows = []
    for name in trackers or by_tracker:
        found = by_tracker[name]
        price = next(iter(found.values()))["gradients_per_step"]
        cells = [_quality(found[setting]) if setting in found else "" for setting in settings]
        average = mean(float(row["quality"]) for row in found.values())
        rows.append(
            (
                f"`{name}`",
                titles.get(name, "the exact eigenvector of the step's own batch"),
                f"{float(price):.2f}" if price else "",
                *cells,
                f"{average:.2f}" if len(found) == len(settings) else "",
            )
        )
    return markdown(("tracker", "what it is", "gradients a step", *settings, "mean"), rows)


def tracking_in_evaluation(results: Path, *trackers: str) -> str:
    """Quality by two Hessians of a network with BatchNorm, in training and in evaluation mode."""
    rows = [
        (
            f"`{row['tracker']}`",
            f"{float(row['gradients_per_step']):.2f}",
            f"{float(row['quality']):.2f}",
            f"{float(row['quality_in_evaluation']):.2f}",
        )
        for row in read_csv(results / "tracking/tracking.csv")
        if row["tracker"] in trackers and row["quality_in_evaluation"]
    ]
    return markdown(("tracker", "gradients a step", "training mode", "evaluation mode"), rows)


def curvature(results: Path, *files: str) -> str:
    """The largest eigenvalue of a network's Hessian, and what it cost."""
    rows = []
    for file in files:
        record = read_json(results / file)
        rows.append(
            (
                f"{max(map(int, record['products'])):,}",
                f"{record['lambda_max']:.1f}",
                f"{record['residual']:.1f}",
                f"{record['cpu_seconds'] / 60:.0f}",
                f"{record['cpu_seconds_per_product_and_image']:.2f}",
            )
        )
    header = (
        *("images", "lambda_max", "residual", "minutes of CPU time"),
        "seconds a Hessian product and image",
    )
    return markdown(header, rows)


def rates(results: Path) -> str:
    """The best learning rate of each method, and its ratio to SAM's, in each setting."""
    best: dict[tuple[str, ...], dict[str, tuple[float, float]]] = {}
    for row in read_csv(results / "rates/rates.csv"):
        of_setting = best.setdefault((row["task"], row["optimizer"], row["schedule"]), {})
        found = float(row["accuracy"]), float(row["learning_rate"])
        # Of equal accuracies the lowest rate.
        if found[0] > of_setting.get(row["method"], (0.0, 0.0))[0]:
            of_setting[row["method"]] = found
    methods = dict.fromkeys(method for found in best.values() for method in found)
    rows = [
        (
            *setting,
            *(
                f"{found[m][1]:g} ({found[m][1] / found['sam'][1]:g})" if m in found else ""
                for m in methods
            ),
        )
        for setting, found in best.items()
    ]
    return markdown(("task", "optimizer", "schedule", *methods), rows)


def read_csv(file: Path) -> Rows:
    """The rows of a file by the names of its columns."""
    with file.open() as lines:
        return list(csv.DictReader(lines))


def _quality(row: Mapping[str, str]) -> str:
    spread = row["quality_deviation"]
    quality = f"{float(row['quality']):.2f}"
    return f"{quality} ± {float(spread):.2f}" if spread else quality
