"""A planned run, and the key of everything that its numbers depend on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.data.dataset import DatasetName
from experiments.models import ModelName
from experiments.training.config import Method, TrainConfig, identity
from experiments.training.resolve import resolve
from experiments.workers.store import Line, Stage, append, key_of


class Cell(NamedTuple):
    """A method on a network and a data set; each is tuned by itself."""

    dataset: DatasetName
    model: ModelName
    method: Method


class Planned(NamedTuple):
    """A run that a program plans."""

    stage: Stage
    config: TrainConfig

    @property
    def key(self) -> str:
        """A hash of everything that its numbers depend on, see `key_of`."""
        return key_of(self.stage, self.fields)

    @property
    def fields(self) -> dict[str, Any]:
        """Everything that its numbers depend on, as its line in results.jsonl has it."""
        return identity(resolve(self.config).to_json())

    @property
    def cell(self) -> Cell:
        """Its method, network and data set."""
        return Cell(self.config.dataset, self.config.model, self.config.method)

    @property
    def name(self) -> str:
        """What a user reads of it."""
        dataset, model, method = self.cell
        return f"{method}, {model} on {dataset}, seed {self.config.seed} ({self.stage})"


def keep(out: Path, run: Planned, said: Mapping[str, Any], revision: str) -> Line:
    """Add a finished run to results.jsonl, and return its line with its key.

    Args:
        out: Folder of the results.
        run: The run.
        said: What its worker said of it; the epochs of a trial are left out.
        revision: The program's, see `store.revision`.
    """
    if run.stage == "tuning":
        said = {name: value for name, value in said.items() if name != "epochs"}
    line = {"stage": run.stage, "revision": revision, "config": run.fields, **said}
    append(out, line)
    return {**line, "key": run.key}


def cell_of(line: Line) -> Cell:
    """Read the method, network and data set of a line."""
    config = line["config"]
    return Cell(config["dataset"], config["model"], config["method"])
