"""The runs: every method at every rate, with each schedule and base optimizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from experiments.training.config import Method, OptimizerName, ScheduleName, TrainConfig
from experiments.workers.planned import Planned

TaskName = Literal["digits", "cnn", "mlp", "resnet8"]

_SMALL_FASHION = {
    "dataset": "fashion_mnist",
    "batch_size": 64,
    "epochs": 10,
    "train_images": 2000,
    "validation_images": 2000,
}
# The tasks of the benchmarks digits and fashion-small, and an MLP on the images of the latter.
TASKS: Mapping[TaskName, Mapping[str, Any]] = {
    "digits": {
        "dataset": "digits",
        "model": "mlp",
        "batch_size": 32,
        "epochs": 40,
        "train_images": 600,
        "validation_images": 837,
        "augment": False,
    },
    "cnn": {"model": "small_cnn", **_SMALL_FASHION},
    "mlp": {"model": "mlp", **_SMALL_FASHION},
    "resnet8": {"model": "resnet8", **_SMALL_FASHION},
}
# Each twice the one before it.
RATES: Mapping[OptimizerName, tuple[float, ...]] = {
    "sgd": (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64),
    "adamw": (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064),
}


@dataclass(frozen=True, kw_only=True)
class RatesConfig:
    """Options of the measurement."""

    tasks: tuple[TaskName, ...] = ("digits", "cnn", "mlp")
    """Data and network: digits is the benchmark digits', the others train on 2,000 images of
    Fashion-MNIST."""
    methods: tuple[Method, ...] = ("sam", "normalized_sam", "xsam", "xsam_oja")
    """Methods."""
    optimizers: tuple[OptimizerName, ...] = get_args(OptimizerName)
    """Base optimizers."""
    schedules: tuple[ScheduleName, ...] = ("constant", "cosine", "linear")
    """Schedules of the learning rate."""
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    """Seeds; every rate is judged by the mean over them."""
    jobs: int | None = None
    """Runs at a time (None: one a core)."""
    data_dir: Path | None = None
    """Directory of Fashion-MNIST, see experiments.train."""
    out: Path = Path("runs/rates")
    """Folder of results.jsonl, rates.csv, rates.md and rates.png."""


class Curve(NamedTuple):
    """The runs of one curve over the learning rate: what they have in common."""

    task: TaskName
    optimizer: OptimizerName
    schedule: ScheduleName
    method: Method


def curves(config: RatesConfig) -> list[Curve]:
    """List all curves, those that share a network and a method one after the other."""
    return [
        Curve(task, optimizer, schedule, method)
        for task in config.tasks
        for method in config.methods
        for optimizer in config.optimizers
        for schedule in config.schedules
    ]


def runs_of(config: RatesConfig, curve: Curve, rate: float) -> list[Planned]:
    """List the runs at one rate, one for each seed."""
    return [
        Planned(
            "tuning",
            TrainConfig(
                method=curve.method,
                optimizer=curve.optimizer,
                schedule=curve.schedule,
                learning_rate=rate,
                rho=0.05,
                seed=seed,
                curvature_every=0,
                data_dir=config.data_dir,
                **TASKS[curve.task],
            ),
        )
        for seed in config.seeds
    ]
