"""A run that a program plans: what it is, and the key of all that its numbers depend on."""

from typing import Any, NamedTuple

from experiments.data.dataset import DatasetName
from experiments.models import ModelName
from experiments.training.config import Method, TrainConfig, identity
from experiments.training.resolve import resolve
from experiments.workers.store import Line, Stage, key_of


class Cell(NamedTuple):
    """A method on a network and a data set: what is tuned on its own."""

    dataset: DatasetName
    model: ModelName
    method: Method


class Planned(NamedTuple):
    """A run of a benchmark."""

    stage: Stage
    config: TrainConfig

    @property
    def key(self) -> str:
        """See `key_of`."""
        return key_of(self.stage, self.fields)

    @property
    def fields(self) -> dict[str, Any]:
        """All that its numbers depend on, as its line has it."""
        return identity(resolve(self.config).to_json())

    @property
    def cell(self) -> Cell:
        """What it is a run of."""
        return Cell(self.config.dataset, self.config.model, self.config.method)


def cell_of(line: Line) -> Cell:
    """The method, network and data set of a line."""
    config = line["config"]
    return Cell(config["dataset"], config["model"], config["method"])
