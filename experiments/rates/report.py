"""The tables and the figure of the study."""

from collections.abc import Iterable, Mapping

import numpy as np
from matplotlib.figure import Figure

from experiments.common.drawing import COLORS, DASHES, MARKERS, png, write_table
from experiments.common.files import write_atomically
from experiments.common.tables import markdown
from experiments.rates.plan import RATES, Curve, RatesConfig, curves, runs_of
from experiments.workers.store import Line

Means = Mapping[Curve, Mapping[float, tuple[float, float]]]


def accuracies(config: RatesConfig, lines: Iterable[Line]) -> Means:
    """Average the accuracy at each rate of which all seeds are finished."""
    found = {line["key"]: float(line["result"]["test_accuracy"]) for line in lines}
    means: dict[Curve, dict[float, tuple[float, float]]] = {}
    for curve in curves(config):
        for rate in RATES[curve.optimizer]:
            keys = [run.key for run in runs_of(config, curve, rate)]
            if all(key in found for key in keys):
                values = [found[key] for key in keys]
                error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
                means.setdefault(curve, {})[rate] = float(np.mean(values)), float(error)
    return means


def best(at: Mapping[float, tuple[float, float]]) -> float:
    """Choose the rate of the highest mean, of equal ones the lowest."""
    return max(sorted(at), key=lambda rate: at[rate][0])


def table(config: RatesConfig, means: Means) -> str:
    """Format the best rates, and their ratio to SAM's in the same setting."""
    header = (
        *Curve._fields,
        "best rate",
        "to SAM's",
        "held-out accuracy",
    )
    rows = []
    for curve in sorted(means, key=lambda c: (c.task, c.optimizer, c.schedule)):
        at, tried = means[curve], RATES[curve.optimizer]
        rate, sam = best(at), means.get(curve._replace(method="sam"))
        edge = " (lowest tried)" if rate == tried[0] else " (highest tried)"
        ratio = "" if sam is None else f"{rate / best(sam):g}"
        accuracy, error = at[rate]
        shown = f"{rate:g}{edge if rate in (tried[0], tried[-1]) else ''}"
        rows.append((*curve, shown, ratio, f"{accuracy:.2f} ± {error:.2f}"))
    return markdown(header, rows)


def write_report(config: RatesConfig, lines: Iterable[Line]) -> None:
    """Write rates.csv, rates.md and rates.png, of the rates that are finished."""
    means = accuracies(config, lines)
    header = (*Curve._fields, "learning_rate", "accuracy", "standard_error")
    rows = [(*curve, rate, *means[curve][rate]) for curve in means for rate in means[curve]]
    write_table(config.out / "rates.csv", header, rows)
    text = (
        "# Learning rates\n\n![Held-out accuracy by learning rate](rates.png)\n\n"
        f"{table(config, means)}\n\nMeans of {len(config.seeds)} seeds ± standard error.\n"
    )
    write_atomically(config.out / "rates.md", text.encode())
    write_atomically(config.out / "rates.png", _draw(config, means))


def _draw(config: RatesConfig, means: Means) -> bytes:
    columns = [(o, s) for o in config.optimizers for s in config.schedules]
    figure = Figure(figsize=(3.2 * len(columns), 3.0 * len(config.tasks)), layout="constrained")
    all_axes = figure.subplots(len(config.tasks), len(columns), sharey="row", squeeze=False)
    for task, row in zip(config.tasks, all_axes, strict=True):
        highest = [a for curve, at in means.items() if curve.task == task for a, _ in at.values()]
        for (optimizer, schedule), axes in zip(columns, row, strict=True):
            for i, method in enumerate(config.methods):
                at = means.get(Curve(task, optimizer, schedule, method), {})
                style = {"color": COLORS[i % 7], "marker": MARKERS[i % 7], "markersize": 4}
                values = [accuracy for accuracy, _ in at.values()]
                axes.plot([*at], values, label=method, linestyle=DASHES[i % 7], **style)
            axes.set(title=f"{task}: {optimizer}, {schedule}", xscale="log", xlabel="learning rate")
            axes.grid(alpha=0.3)
            if highest:  # what fails lies below
                axes.set_ylim(max(highest) - 12, max(highest) + 1)
        row[0].set_ylabel("held-out accuracy (%)")
    all_axes[0, 0].legend(fontsize=8)
    return png(figure)
