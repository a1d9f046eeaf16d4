"""What the files of a run say, whether it is finished or not."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.common.drawing import Value
from experiments.common.errors import UserError
from experiments.common.files import damaged, read_json
from experiments.training.config import ResolvedConfig
from experiments.training.run_folder import Result, words_of
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


def named(folders: Sequence[Path]) -> dict[str, Path]:
    """Runs by short names: those of their folders, or the whole paths where these are the same.

    Raises:
        UserError: There is none, or one twice.
    """
    if not folders or len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("name the folders of one or more different runs.")
    short = [folder.resolve().name for folder in folders]
    names = short if len({*short}) == len(short) else map(str, folders)
    return dict(zip(names, folders, strict=True))


def about(name: str, run: Record) -> dict[str, Value]:
    """What tables of runs say of each: which it is, and how far it came."""
    config, epochs = run.config, len(run.epochs)
    length = f"{epochs} of {config.epochs}" if run.result is None else str(epochs)
    return {
        "run": name,
        "method": config.method,
        "model": config.model,
        "dataset": config.dataset,
        "seed": config.seed,
        "epochs": length + words_of(run.continued_at),
        "test_accuracy": run.epochs[-1].test_accuracy if epochs else None,
    }


def cell(value: Value) -> str:
    """A number in a table that is read."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _epochs(out: Path) -> list[EpochMetrics]:
    try:
        return [EpochMetrics(**json.loads(line)) for line in (out / "metrics.jsonl").open()]
    except (OSError, ValueError, TypeError):
        raise damaged(out) from None
