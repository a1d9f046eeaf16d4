"""What a benchmark runs: methods x networks x data sets x seeds, and how they are tuned."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from scipy.stats import qmc

from experiments.data.dataset import DatasetName
from experiments.models import ModelName
from experiments.training.config import Method, TrainConfig
from experiments.training.methods import METHODS
from experiments.workers.planned import Cell, Planned
from experiments.workers.store import Line


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How learning rate and radius are chosen, alike for each method.

    Every method is tried at the same points of (learning rate, rho), a low-discrepancy sequence on
    logarithmic scales, and judged on images held out of the training set. What has no radius, or
    keeps its own, is tried at the same number of learning rates.
    """

    trials: int
    seeds: tuple[int, ...]
    learning_rate: tuple[float, float]
    """Lowest and highest."""
    rho: tuple[float, float] | None
    """Lowest and highest; ten times as much for asam. None: each method keeps the protocol's."""
    validation_images: int
    """Training images held out, of all that the data set has."""
    epochs: int | None = None
    """Length of a trial; None: that of the runs that count."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """All that a benchmark runs."""

    name: str
    datasets: tuple[DatasetName, ...]
    models: tuple[ModelName, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    """Fields of `TrainConfig` for all runs."""
    tuning: Tuning | None = None
    """None: the learning rate and the radii of `TrainConfig`, which are the paper's."""


def cells(protocol: Protocol) -> list[Cell]:
    """List every method on every network and data set of a benchmark."""
    return [
        Cell(dataset, model, method)
        for dataset in protocol.datasets
        for model in protocol.models
        for method in protocol.methods
    ]


def tuning_runs(protocol: Protocol, cell: Cell) -> list[Planned]:
    """List the trials of one method."""
    tuning = protocol.tuning
    if tuning is None:
        return []

    def trial(learning_rate: float, rho: float | None, seed: int) -> Planned:
        config = _config(protocol, cell, seed)
        config = replace(
            config,
            learning_rate=learning_rate,
            rho=config.rho if rho is None else rho * METHODS[cell.method].radius_unit,
            validation_images=tuning.validation_images,
            epochs=config.epochs if tuning.epochs is None else tuning.epochs,
            # Chosen by accuracy: the curvature is measured in the runs that count.
            curvature_every=0,
            trace_probes=0,
        )
        return Planned("tuning", config)

    return [trial(*point, seed) for point in points(tuning) for seed in tuning.seeds]


def final_runs(protocol: Protocol, cell: Cell, lines: Iterable[Line]) -> list[Planned]:
    """List the final runs of one method, at the chosen learning rate and radius.

    Args:
        protocol: The benchmark.
        cell: The method.
        lines: Finished runs.

    Returns:
        One run a seed; none before all trials are finished, so that all methods have as many.
    """
    chosen: Mapping[str, Any] = {}
    if protocol.tuning is not None:
        trials = {run.key for run in tuning_runs(protocol, cell)}
        finished = [line for line in lines if line["key"] in trials]
        if len(finished) < len(trials):
            return []
        chosen = choose(finished)
    return [
        Planned("final", replace(_config(protocol, cell, seed), **chosen))
        for seed in protocol.seeds
    ]


def points(tuning: Tuning) -> list[tuple[float, float | None]]:
    """Draw the learning rates and radii to be tried, the same for every method."""
    unit = qmc.Halton(2, rng=0).random(tuning.trials)
    rho = tuning.rho
    return [
        (_between(x, tuning.learning_rate), None if rho is None else _between(y, rho))
        for x, y in unit.tolist()
    ]


def choose(trials: Iterable[Line]) -> dict[str, float]:
    """Choose the learning rate and radius of the highest mean validation accuracy.

    Args:
        trials: All trials of a method.

    Returns:
        ``learning_rate`` and ``rho``; of equal accuracies that of the lower loss.
    """
    scores: dict[tuple[float, float], list[tuple[float, float]]] = {}
    for line in trials:
        config, result = line["config"], line["result"]
        loss = math.inf if result["test_loss"] is None else result["test_loss"]
        point = config["learning_rate"], config["rho"]
        scores.setdefault(point, []).append((result["test_accuracy"], -loss))

    def mean(point: tuple[float, float]) -> tuple[float, ...]:
        return tuple(
            sum(values) / len(scores[point]) for values in zip(*scores[point], strict=True)
        )

    learning_rate, rho = max(scores, key=mean)
    return {"learning_rate": learning_rate, "rho": rho}


def _between(unit: float, ends: tuple[float, float]) -> float:
    low, high = map(math.log, ends)
    return float(f"{math.exp(low + unit * (high - low)):.4g}")


def _config(protocol: Protocol, cell: Cell, seed: int) -> TrainConfig:
    return TrainConfig(**cell._asdict(), seed=seed, **protocol.settings)
