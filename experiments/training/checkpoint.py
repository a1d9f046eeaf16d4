"""Checkpoints of a run, so that what stops it loses nothing.

A checkpoint is a folder ``checkpoints/STEP`` in the run's folder: the arrays as orbax writes them,
run.json with the finished epochs, and SHA256SUMS with the checksum of every other file. It is
written beside its place and renamed when all of it is on the disk, so that it is there whole or not
at all; the checksums find what was damaged later. The last two are kept.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common.errors import UserError
from experiments.training.step import EpochMetrics, StepMetrics, TrainState

CHECKPOINTS = "checkpoints"


_SUMS = "SHA256SUMS"
_KEPT = 2


class Snapshot(NamedTuple):
    """The state of a run between two steps, which a checkpoint holds.

    Attributes:
        state: All that training changes; the order of the data and the random keys follow from its
            step and the run's seed.
        metrics: Of the epoch in progress.
        step_metrics: Of the finished epochs.
        history: The finished epochs.
        seconds: Wall time so far.
    """

    state: TrainState
    metrics: StepMetrics
    step_metrics: list[StepMetrics]
    history: list[EpochMetrics]
    seconds: float


def save(out: Path, run: str, snapshot: Snapshot) -> Path:
    """Write a checkpoint, and remove older ones that are not needed any more.

    Args:
        out: Folder of the run.
        run: What makes it this run, see `canonical`.
        snapshot: The run, in the memory of this host.

    Returns:
        Where it lies.

    Raises:
        UserError: It cannot be written; the checkpoints before it are untouched.
    """
    from orbax import checkpoint as orbax

    folder = out / CHECKPOINTS
    step = int(snapshot.state.step)
    place, temporary = place_of(out, step), folder / f".{step:08d}.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        arrays = _arrays(snapshot)
        # Not orbax.v1's save, which waits for the other processes of a run, whatever it is told.
        options = orbax.options.MultiprocessingOptions(active_processes={0})
        handler = orbax.PyTreeCheckpointHandler(multiprocessing_options=options)
        checkpointer = orbax.Checkpointer(handler, multiprocessing_options=options)
        checkpointer.save(temporary.absolute() / "arrays", arrays)
        about = {
            "run": run,
            "history": [epoch._asdict() for epoch in snapshot.history],
            "seconds": snapshot.seconds,
            "leaves": _leaves(arrays),
        }
        (temporary / "run.json").write_text(json.dumps(about))
        (temporary / _SUMS).write_text(json.dumps(_checksums(temporary)))
        for path in (temporary, *temporary.rglob("*")):
            _sync(path)
        if place.exists():
            shutil.rmtree(place)
        temporary.rename(place)
        _sync(folder)
    except Exception as error:  # Orbax's come from several packages and have no common base.
        shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"no checkpoint can be written to {folder}: {reason}.") from None
    for old in checkpoints(out)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def restore(out: Path, run: str, start: Snapshot) -> Snapshot | None:
    """Read the last whole checkpoint of a run.

    A damaged checkpoint is named on stderr, and the one before it is taken.

    Args:
        out: Folder of the run.
        run: What makes it this run, see `canonical`.
        start: The run before its first step; only shapes and dtypes of its arrays are looked at.

    Returns:
        The run, in the memory of this host; None if there is no checkpoint.

    Raises:
        UserError: The checkpoint is not of this program, or not of this run.
    """
    for leftover in (out / CHECKPOINTS).glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    places = checkpoints(out)
    for place in reversed(places):
        damage = _damage(place)
        if damage is None:
            try:
                return _read(place, run, start)
            except (TypeError, KeyError, ValueError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise UserError(f"{place} is no checkpoint of this program: {reason}.") from None
        print(f"{place} is damaged ({damage}): left out", file=sys.stderr)
    if places:
        print("no whole checkpoint is left: the run begins anew", file=sys.stderr)
    return None


def place_of(out: Path, step: int) -> Path:
    """Name the folder of the checkpoint after a step."""
    return out / CHECKPOINTS / f"{step:08d}"


def remove(out: Path) -> None:
    """Remove all checkpoints of a run."""
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def _read(place: Path, run: str, start: Snapshot) -> Snapshot:
    from orbax.checkpoint import v1 as orbax

    about = json.loads((place / "run.json").read_text())
    if about["run"] != run:
        raise UserError(
            f"{place} is a checkpoint of a run with other options: name another directory with "
            f"--out, or remove {place.parent}."
        )
    state, metrics = jax.tree.map(_like, (start.state, start.metrics))
    past = [metrics] * len(about["history"])
    template = _arrays(Snapshot(state, metrics, past, [], 0.0))
    # Orbax would cast in silence.
    if about["leaves"] != _leaves(template):
        raise UserError(
            f"{place} is a checkpoint of another version of this program: name another directory "
            "with --out."
        )
    history = [EpochMetrics(**epoch) for epoch in about["history"]]
    context = orbax.Context()
    context.multiprocessing.active_processes = {0}
    with context:
        arrays = orbax.load(place.absolute() / "arrays", template)
    losses, accuracies = arrays["past"]
    past = [StepMetrics(losses[i], accuracies[i]) for i in range(len(history))]
    return Snapshot(arrays["state"], arrays["metrics"], past, history, about["seconds"])


def _like(leaf: Any) -> Any:
    return np.zeros(leaf.shape, leaf.dtype)


def _arrays(snapshot: Snapshot) -> dict[str, Any]:
    # One more than there are: an array of no elements is none that can be stored.
    nothing = jax.tree.map(np.zeros_like, snapshot.metrics)
    past = tuple(np.stack(field) for field in zip(*snapshot.step_metrics, nothing, strict=True))
    state, metrics = jax.tree.map(np.asarray, (snapshot.state, snapshot.metrics))
    return {"state": state, "metrics": metrics, "past": past}


def _leaves(arrays: dict[str, Any]) -> list[str]:
    return [
        f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree.leaves_with_path(arrays)
    ]


def _files(place: Path) -> list[Path]:
    return sorted(file for file in place.rglob("*") if file.is_file() and file.name != _SUMS)


def _checksums(place: Path) -> dict[str, str]:
    return {
        file.relative_to(place).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in _files(place)
    }


def _damage(place: Path) -> str | None:
    """Say what is wrong with a checkpoint, None if nothing is."""
    try:
        expected, found = json.loads((place / _SUMS).read_text()), _checksums(place)
    except (OSError, ValueError) as error:
        return f"{_SUMS}: {error}"
    if not isinstance(expected, dict):
        return f"{_SUMS} is not what was written"
    if expected == found:
        return None
    name = next(n for n in {**expected, **found} if expected.get(n) != found.get(n))
    if name not in found:
        return f"{name} is missing"
    return f"{name} is not what was written"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoints(out: Path) -> list[Path]:
    """List the checkpoints of a run, oldest first."""
    return sorted(place for place in (out / CHECKPOINTS).glob("[0-9]*") if place.name.isdecimal())
