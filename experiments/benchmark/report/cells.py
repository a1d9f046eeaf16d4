"""Format numbers as cells of a report's tables."""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from experiments.benchmark.report.statistics import Summary, summarize
from experiments.training.methods import METHODS
from experiments.workers.store import Line


def chosen(value: float, tried: Set[float]) -> str:
    """Format a hyperparameter, and say where it is the lowest or highest that was tried."""
    if len(tried) < 2 or min(tried) < value < max(tried):
        return f"{value:g}"
    return f"{value:g} ({'lowest' if value == min(tried) else 'highest'} tried)"


def refreshes(config: Mapping[str, Any]) -> str:
    """Format when and how the eigenvector is computed anew, or nothing where it is followed."""
    texts: Mapping[str, Callable[[Any], str]] = {
        "refresh_every": "p = {}".format,
        "power_iters": "q = {}".format,
        "warm_start": lambda warm: "warm" if warm else "cold",
        "curvature_mode": "{} mode".format,
    }
    options = METHODS[config["method"]].options
    return ", ".join(text(config[name]) for name, text in texts.items() if name in options)


def mean_of(lines: Sequence[Line], name: str, digits: int) -> str:
    """Format the mean of a result's field, and say of how many runs it is where some have none."""
    values = [line["result"][name] for line in lines if line["result"][name] is not None]
    if not values:
        return ""
    mean = plus_minus(summarize(values), digits)
    return mean if len(values) == len(lines) else f"{mean} ({len(values)} of {len(lines)})"


def plus_minus(summary: Summary, digits: int) -> str:
    """Format a mean and, where there is one, its standard deviation."""
    if math.isnan(summary.deviation):
        return f"{summary.mean:.{digits}f}"
    return f"{summary.mean:.{digits}f} ± {summary.deviation:.{digits}f}"
