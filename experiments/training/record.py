"""What the files of a run say, whether it is finished or not."""

import json
from pathlib import Path
from typing import NamedTuple

from experiments.common.errors import UserError
from experiments.common.files import damaged, read_json
from experiments.training.config import ResolvedConfig
from experiments.training.run_folder import Result
from experiments.training.step import EpochMetrics


class Record(NamedTuple):
    """The files of a run.

    Attributes:
        out: Its folder.
        config: What it was told.
        result: None while it is not finished.
        epochs: Those that are finished.
        continued_at: See `Result`.
    """

    out: Path
    config: ResolvedConfig
    result: Result | None
    epochs: list[EpochMetrics]
    continued_at: tuple[int, ...]


def read_record(out: Path) -> Record:
    """Read a run's folder.

    Args:
        out: The folder; it may have been moved.

    Returns:
        What its files say.

    Raises:
        UserError: It is no run's, or a file is damaged or of another version of this program.
    """
    file = out / "config.json"
    if not file.exists():
        raise UserError(f"{out} is no folder of a run: it has no config.json.")
    fields = read_json(file)
    try:
        continued_at = tuple(fields.pop("continued_at", ()))
        where = fields["data_dir"]
        places = {"out": out, "data_dir": None if where is None else Path(where)}
        config = ResolvedConfig(**fields | places)
    except (TypeError, AttributeError, KeyError):
        raise UserError(f"{file} is of another program or version.") from None
    if not (out / "result.json").exists():
        there = (out / "metrics.jsonl").exists()
        return Record(out, config, None, _epochs(out) if there else [], continued_at)
    return Record(out, config, *read_finished(out), continued_at)


def read_finished(out: Path) -> tuple[Result, list[EpochMetrics]]:
    """Result and epochs of a finished run.

    Raises:
        UserError: A file is damaged.
    """
    try:
        return Result(**json.loads((out / "result.json").read_text())), _epochs(out)
    except (OSError, ValueError, TypeError):
        raise damaged(out) from None


def _epochs(out: Path) -> list[EpochMetrics]:
    try:
        return [EpochMetrics(**json.loads(line)) for line in (out / "metrics.jsonl").open()]
    except (OSError, ValueError, TypeError):
        raise damaged(out) from None
