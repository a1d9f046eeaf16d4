"""Steps of a run whose loss or update was not finite: what is said of them, and of the rest."""

import math
import sys
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray

from experiments import checkpoint
from experiments.step import StepMetrics, TrainState


def report_bad_steps(epoch: int, loss: jax.Array | NDArray[np.float32]) -> list[int]:
    """Name the bad steps of an epoch on stderr.

    Args:
        epoch: Its number, from 1.
        loss: Of all its steps, NaN for the bad ones.

    Returns:
        Their numbers in the run, from 1.
    """
    bad: list[int] = ((epoch - 1) * len(loss) + 1 + np.flatnonzero(np.isnan(loss))).tolist()
    if bad:
        steps = f"step{'s' * (len(bad) > 1)} {', '.join(map(str, bad))}"
        print(f"epoch {epoch}: left out {steps}, not finite", file=sys.stderr)
    return bad


def mean_of_good(values: jax.Array, metrics: StepMetrics) -> float:
    """The mean over the good steps; over all of them by the reduction of runs without bad ones."""
    good = ~np.isnan(metrics.loss)
    if good.all():
        return float(np.mean(values))
    return float(np.asarray(values)[good].mean()) if good.any() else math.nan


def no_end(out: Path, state: TrainState) -> str:
    """What is said when a run gives up.

    Args:
        out: Folder of the run, where a checkpoint of ``state`` lies.
        state: The state after the last of too many bad steps in a row.
    """
    bad, last = int(state.bad_steps), int(state.step)
    return (
        f"loss or update not finite {bad} times in a row, first in step {last - bad + 1}: the "
        f"state before it is in the checkpoint {checkpoint.place_of(out, last)}, from which "
        "experiments.train goes on with a larger --max-bad-steps."
    )
