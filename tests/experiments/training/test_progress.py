"""What is shown of a run, and whose number it is."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import pytest

from experiments.training.chunk import empty_metrics
from experiments.training.progress import report_of
from experiments.training.step import EpochMetrics, TrainState


class Tracked(NamedTuple):
    eigenvalue: float
    alignment: float


class TrackedAlone(NamedTuple):
    eigenvalue: float


@pytest.mark.parametrize(
    ("opt_state", "eigenvalue", "angle", "estimated"),
    [
        ((), 3.0, 70.0, set()),
        (Tracked(0.0, 0.0), 3.0, 70.0, set()),  # a vector without an eigenvalue
        (Tracked(2.0, -0.5), 2.0, 60.0, {"eigenvalue", "angle"}),
        (TrackedAlone(2.0), 2.0, 70.0, {"eigenvalue"}),
    ],
)
def test_what_the_method_knows_itself_is_said_to_be_estimated(
    opt_state: Any, eigenvalue: float, angle: float, estimated: set[str]
) -> None:
    state = TrainState(jnp.int32(5), {}, {}, (opt_state, ()))
    history = [EpochMetrics(1, 0.5, 80.0, 0.6, 81.0, 3.0, 70.0, 1.0)]
    report = report_of(2, state, empty_metrics(4), history)
    assert report.eigenvalue == pytest.approx(eigenvalue)
    assert report.angle == pytest.approx(angle)
    assert {*report.estimated} == estimated
    assert not math.isnan(report.loss)
    unmeasured = report_of(2, state, empty_metrics(4), [])
    assert (unmeasured.eigenvalue is None) == ("eigenvalue" not in estimated)
