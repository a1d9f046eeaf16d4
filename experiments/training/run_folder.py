"""The files of a run: config.json, inputs.json, metrics.jsonl, result.json, curves.png.

Every file is written beside its place and then moved there, so that a reader, or a run that was
killed, never sees half of one.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from experiments.common.errors import UserError
from experiments.common.files import finite, locked, write_atomically, write_json, writing
from experiments.data.dataset import Dataset
from experiments.models.network import inputs_of
from experiments.training import checkpoint
from experiments.training.checkpoint import Snapshot
from experiments.training.config import ResolvedConfig, canonical, identity
from experiments.training.curves import write_curves
from experiments.training.events import check_tensorboard, event_files
from experiments.training.hosts import first
from experiments.training.step import EpochMetrics, StepMetrics

T = TypeVar("T")


class Result(NamedTuple):
    """The content of result.json: what was measured at the end of a run.

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
        continued_at: After so many epochs it was finished and then given more, which changed the
            schedule: it is no run of all its epochs at once.
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
    continued_at: Sequence[int] = ()


class RunFolder(NamedTuple):
    """The files of a run that goes on; process 0 writes them, the others wait.

    Attributes:
        config: The run's configuration.
        kept: Whether there are any; otherwise nothing is read or written.
        show: Writes event files, see `event_files`; only where they are wanted, in process 0.
    """

    config: ResolvedConfig
    kept: bool = True
    show: Callable[[Sequence[EpochMetrics]], None] | None = None

    def restore(self, start: Snapshot) -> Snapshot | None:
        """Read the last whole checkpoint, see `checkpoint.restore`."""
        own = self.config

        def shorter(epochs: int) -> str | None:
            return canonical(replace(own, epochs=epochs)) if epochs < own.epochs else None

        return self._do(checkpoint.restore, canonical(own), start, shorter)

    def write_inputs(self, data: Dataset) -> None:
        """Write inputs.json, with which the network is built where the data are not."""
        self._do(_write_inputs, data)

    def write_continued(self, continued_at: Sequence[int]) -> None:
        """Write into config.json where the run went on, see `Result`."""
        self._do(_write_config, self.config, continued_at)

    def save(self, snapshot: Snapshot) -> Path | None:
        """Write a checkpoint and return its place, None where nothing is kept."""
        return self._do(checkpoint.save, canonical(self.config), snapshot)

    def write_metrics(self, epochs: Sequence[EpochMetrics]) -> None:
        """Write metrics.jsonl, and what is new into the event files."""
        self._do(write_metrics, epochs)
        if self.show is not None:
            self.show(epochs)

    def write_curves(
        self,
        epochs: Sequence[EpochMetrics],
        steps: Sequence[StepMetrics],
        continued_at: Sequence[int],
    ) -> None:
        """Draw curves.png, with the metrics of each epoch's steps behind those of the epochs."""
        c = self.config
        title = f"{c.method}, {c.model} on {c.dataset}, seed {c.seed}{words_of(continued_at)}"
        tested_on = "the test set" if c.validation_images is None else "held-out images"
        self._do(write_curves, epochs, steps, title, tested_on)

    def finish(self, result: Result) -> None:
        """Write result.json, the mark of a finished run, which needs its last checkpoint only."""
        self._do(_finish, result)

    def _do(self, action: Callable[..., T], *args: Any) -> T | None:
        return first(partial(action, self.config.out, *args)) if self.kept else None


@contextmanager
def open_run(config: ResolvedConfig, tensorboard: bool = False) -> Iterator[RunFolder]:
    """Make the run's directory and write config.json; keep other processes out until the end.

    Args:
        config: The run's configuration.
        tensorboard: Write event files too.

    Yields:
        What reads and writes its other files.

    Raises:
        UserError: The directory cannot be written or is in use, or holds the run of another
            configuration, finished or with a checkpoint, or a config.json that no run wrote. Or
            event files are wanted, and what writes them is not installed.
    """
    with ExitStack() as held:
        if tensorboard:
            first(check_tensorboard)
        first(partial(_begin, config, held))
        writes = tensorboard and jax.process_index() == 0
        show = held.enter_context(event_files(config.out)) if writes else None
        yield RunFolder(config, show=show)


def _begin(config: ResolvedConfig, held: ExitStack) -> None:
    out = config.out
    with writing(f"--out {out}"):
        _refuse_other_run(config)
        out.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(out, f"--out {out} is in use by another run."))
        # From here on the directory holds an unfinished run, whatever it held before.
        for name in ("result.json", "metrics.jsonl", "curves.png"):
            (out / name).unlink(missing_ok=True)
        _write_config(out, config)


def finished(config: ResolvedConfig) -> bool:
    """Ask whether the directory holds this run, finished.

    Raises:
        UserError: The directory cannot be read.
    """
    with writing(f"--out {config.out}"):
        mine = _identity_in(config.out) == identity(config.to_json())
        return mine and (config.out / "result.json").exists()


def _identity_in(out: Path) -> dict[str, Any] | None:
    """Read the identity in config.json, empty if no run wrote it, None where it is missing."""
    file = out / "config.json"
    if not file.exists():
        return None
    try:
        return identity(json.loads(file.read_text()))
    except (ValueError, AttributeError):
        return {}


def refuse_other_run(config: ResolvedConfig) -> None:
    """Refuse the directory of another run, finished or with a checkpoint.

    Raises:
        UserError: It is one, and the text names what differs, or it cannot be read.
    """
    with writing(f"--out {config.out}"):
        _refuse_other_run(config)


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
    differing = [name for name in mine if mine[name] != theirs[name]]
    if finished and differing == ["epochs"] and mine["epochs"] > theirs["epochs"]:
        if checkpoint.last_whole(config.out) is None:
            raise UserError(
                f"--out {config.out} holds this run, finished after {theirs['epochs']} epochs, but "
                "no weights to go on from: name another directory."
            )
    elif differing and (finished or checkpoint.checkpoints(config.out)):
        raise UserError(
            f"--out {config.out} holds {'a finished' if finished else 'an unfinished'} run with "
            f"other values of {', '.join(differing)}: name another directory."
        )


def words_of(continued_at: Sequence[int]) -> str:
    """What stands behind the name of a run that went on after its end, if it did."""
    epochs = ", ".join(map(str, continued_at))
    return f" (given more epochs after {epochs})" if continued_at else ""


def _write_config(out: Path, config: ResolvedConfig, continued_at: Sequence[int] = ()) -> None:
    where = {"continued_at": list(continued_at)} if continued_at else {}
    write_json(out / "config.json", config.to_json() | where)


def _write_inputs(out: Path, data: Dataset) -> None:
    write_json(out / "inputs.json", inputs_of(data)._asdict() | {"classes": data.classes})


def write_metrics(out: Path, epochs: Sequence[EpochMetrics]) -> None:
    """Write metrics.jsonl."""
    lines = [json.dumps(as_json(epoch)) for epoch in epochs]
    write_atomically(out / "metrics.jsonl", "".join(line + "\n" for line in lines).encode())


def _finish(out: Path, result: Result) -> None:
    write_json(out / "result.json", as_json(result))
    checkpoint.keep_last(out)


def as_json(numbers: EpochMetrics | Result) -> dict[str, Any]:
    """The fields as JSON values: of a training that diverged some are null."""
    return {name: finite(value) for name, value in numbers._asdict().items()}
