"""The files of a run: config.json, metrics.jsonl, result.json, curves.png.

Every file is written beside its place and then moved there, so that a reader, or a run that was
killed, never sees half of one.
"""

import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common.errors import UserError
from experiments.common.files import locked, write_atomically, write_json, writing
from experiments.training.checkpoint import checkpoints
from experiments.training.config import ResolvedConfig, identity
from experiments.training.step import EpochMetrics


class Result(NamedTuple):
    """What result.json holds: the state at the end of a run.

    Attributes:
        test_accuracy: Percent.
        test_loss: Mean cross-entropy on the test set.
        train_loss: Mean over the last epoch.
        lambda_max: Largest Hessian eigenvalue on the fixed training subset, None if not measured.
        trace: Trace of the Hessian on the same subset, None if not measured.
        trace_error: Its standard error.
        seconds: Wall time of the whole run.
        steps: Optimizer steps taken.
        method: Name of the method.
        model: Name of the network.
        dataset: Name of the data set.
        seed: Seed of the run.
        versions: Versions of Python and of the packages that computed it.
    """

    test_accuracy: float
    test_loss: float
    train_loss: float
    lambda_max: float | None
    trace: float | None
    trace_error: float | None
    seconds: float
    steps: int
    method: str
    model: str
    dataset: str
    seed: int
    versions: dict[str, str]


def open_run(config: ResolvedConfig, held: ExitStack) -> None:
    """Make the run's directory, keep other processes out of it and write config.json.

    Args:
        config: The run's configuration.
        held: When it ends, the directory is free again.

    Raises:
        UserError: The directory cannot be written or is in use, or holds the run of another
            configuration, finished or with a checkpoint, or a config.json that no run wrote.
    """
    out = config.out
    with writing(f"--out {out}"):
        _refuse_other_run(config)
        out.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(out, f"--out {out} is in use by another run."))
        # From here on the directory holds an unfinished run, whatever it held before.
        for name in ("result.json", "metrics.jsonl", "curves.png"):
            (out / name).unlink(missing_ok=True)
        write_json(out / "config.json", config.to_json())


def finished(config: ResolvedConfig) -> bool:
    """Whether the run's directory holds it, finished.

    Raises:
        UserError: The directory cannot be read.
    """
    with writing(f"--out {config.out}"):
        mine = _identity_in(config.out) == identity(config.to_json())
        return mine and (config.out / "result.json").exists()


def _identity_in(out: Path) -> dict[str, Any] | None:
    """That of a directory's config.json, empty if no run wrote it, None without one."""
    file = out / "config.json"
    if not file.exists():
        return None
    try:
        return identity(json.loads(file.read_text()))
    except (ValueError, AttributeError):
        return {}


def _refuse_other_run(config: ResolvedConfig) -> None:
    mine, theirs = identity(config.to_json()), _identity_in(config.out)
    if theirs is None:
        return
    if theirs.keys() != mine.keys():
        raise UserError(
            f"--out {config.out} holds a config.json of another program or version: name another "
            "directory."
        )
    finished = (config.out / "result.json").exists()
    if theirs != mine and (finished or checkpoints(config.out)):
        differing = [name for name in mine if mine[name] != theirs[name]]
        raise UserError(
            f"--out {config.out} holds {'a finished' if finished else 'an unfinished'} run with "
            f"other values of {', '.join(differing)}: name another directory."
        )


def write_metrics(out: Path, epochs: Sequence[EpochMetrics]) -> None:
    """Write metrics.jsonl."""
    lines = [json.dumps(_finite(epoch._asdict())) for epoch in epochs]
    write_atomically(out / "metrics.jsonl", "".join(line + "\n" for line in lines).encode())


def write_result(out: Path, result: Result) -> None:
    """Write result.json, the mark of a finished run."""
    write_json(out / "result.json", _finite(result._asdict()))


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: a training that diverged has null there."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
    }
