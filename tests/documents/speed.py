"""The committed measurements of a step's cost."""

import json
from typing import Any

from experiments.speed.steps import BETWEEN, REFRESH
from experiments.speed.table import mean_of
from tests.documents.text import RESULTS


def speed(platform: str) -> dict[str, Any]:
    """What was measured there, by network."""
    return {
        file.stem.split("-")[1]: json.loads(file.read_text())
        for file in (RESULTS / "speed").glob(f"{platform}-*.json")
    }


SPEED, GPU = speed("cpu"), speed("gpu")
IMAGES, TEXT = ("simple_cnn", "resnet18"), "transformer"
# The large transformer's table says how large a step can be.
COMPARED = {name: SPEED[name] for name in (*IMAGES, TEXT)}
FREE = ("sam", "xsam, oja", "xsam, subspace")


def steps(name: str, measured: dict[str, Any] = SPEED) -> dict[str, Any]:
    return {row["name"]: row for row in measured[name]["rows"]}


def memory_mib(name: str) -> dict[str, float]:
    rows = steps(name).items()
    return {step: row["compiled"]["temporary_mib"] for step, row in rows if row["compiled"]}


def mean_ratio(
    name: str,
    measured: dict[str, Any] = SPEED,
    refresh: str = REFRESH,
    between: str = BETWEEN,
    period: int = 100,
) -> float:
    """Of a step of power iteration to optax's SAM, on average."""
    found = steps(name, measured)
    return mean_of(period, found[refresh]["ratio"], found[between]["ratio"])
