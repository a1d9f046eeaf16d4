"""A tiny benchmark, and lines of finished runs."""

from typing import Any

from experiments.benchmark.protocol import (
    Protocol,
    Tuning,
)
from experiments.workers.planned import Cell, Planned
from experiments.workers.store import Line

TINY = Protocol(
    name="tiny",
    datasets=("digits",),
    models=("mlp",),
    methods=("sgd", "sam", "xsam"),
    seeds=(0, 1),
    settings={
        "batch_size": 32,
        "epochs": 2,
        "train_images": 96,
        "test_images": 50,
        "curvature_samples": 32,
        "num_matvecs": 3,
        "trace_probes": 2,
    },
    tuning=Tuning(
        trials=2, seeds=(7,), learning_rate=(0.01, 0.1), rho=(0.05, 0.2), validation_images=32
    ),
)
SAM, SGD = Cell("digits", "mlp", "sam"), Cell("digits", "mlp", "sgd")


def line(accuracy: float, loss: float | None, **config: Any) -> Line:
    fields = {"dataset": "digits", "model": "mlp", "method": "sam", "seed": 0, **config}
    return {
        "key": "k",
        "stage": "tuning",
        "config": fields,
        "result": {"test_accuracy": accuracy, "test_loss": loss},
    }


def finished(run: Planned, accuracy: float) -> Line:
    result = {"test_accuracy": accuracy, "test_loss": 0.5}
    return {"key": run.key, "stage": run.stage, "config": run.fields, "result": result}
