"""Checkpoints of a run, so that what stops it loses nothing, and the weights of a finished one.

A checkpoint is a folder ``checkpoints/STEP`` in the run's folder: the arrays as orbax writes them,
run.json with the finished epochs, and SHA256SUMS with the checksum of every other file. It is
written beside its place and renamed when all of it is on the disk, so that it is there whole or not
at all; the checksums find what was damaged later. The last two are kept, of a finished run the last
one: its weights, and what more epochs need.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from experiments.common.checksums import damage, seal, sync
from experiments.common.errors import UserError
from experiments.training.step import EpochMetrics, StepMetrics, TrainState

CHECKPOINTS = "checkpoints"
_KEPT = 2


class Weights(NamedTuple):
    """What a network predicts with."""

    params: chex.ArrayTree
    batch_stats: chex.ArrayTree


class Snapshot(NamedTuple):
    """The state of a run between two steps, which a checkpoint holds.

    Attributes:
        state: All that training changes; the order of the data and the random keys follow from its
            step and the run's seed.
        metrics: Of the epoch in progress.
        step_metrics: Of the finished epochs.
        history: The finished epochs.
        seconds: Wall time so far.
        continued_at: The numbers of epochs that it was to have before it went on for more.
    """

    state: TrainState
    metrics: StepMetrics
    step_metrics: list[StepMetrics]
    history: list[EpochMetrics]
    seconds: float
    continued_at: tuple[int, ...] = ()


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
            "continued_at": snapshot.continued_at,
            "leaves": _leaves(arrays),
        }
        (temporary / "run.json").write_text(json.dumps(about))
        seal(temporary)
        if place.exists():
            shutil.rmtree(place)
        temporary.rename(place)
        sync(folder)
    except Exception as error:  # Orbax's come from several packages and have no common base.
        shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"no checkpoint can be written to {folder}: {reason}.") from None
    keep_last(out, _KEPT)
    return place


def restore(
    out: Path, run: str, start: Snapshot, shorter: Callable[[int], str | None] = lambda _: None
) -> Snapshot | None:
    """Read the last whole checkpoint of a run.

    A damaged checkpoint is named on stderr, and the one before it is taken.

    Args:
        out: Folder of the run.
        run: What makes it this run, see `canonical`.
        start: The run before its first step; only shapes and dtypes of its arrays are looked at.
        shorter: What makes it the same run of so many epochs, None unless they are fewer. It goes
            on from the end of such a one.

    Returns:
        The run, in the memory of this host; None if there is no checkpoint.

    Raises:
        UserError: The checkpoint is not of this program, or not of this run.
    """
    for leftover in (out / CHECKPOINTS).glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    place = last_whole(out)
    if place is not None:
        with _of_this_program(place):
            return _read(place, run, start, shorter)
    if checkpoints(out):
        print("no whole checkpoint is left: the run begins anew", file=sys.stderr)
    return None


def last_whole(out: Path) -> Path | None:
    """The last checkpoint that is as it was written; those that are not are named on stderr."""
    for place in reversed(checkpoints(out)):
        harm = damage(place)
        if harm is None:
            return place
        print(f"{place} is damaged ({harm}): left out", file=sys.stderr)
    return None


def read_weights(place: Path, like: Weights) -> Weights:
    """The weights in a checkpoint, whatever method they were trained with.

    Args:
        place: The checkpoint.
        like: Weights of the same shapes and dtypes.

    Raises:
        UserError: The checkpoint holds those of another network.
    """
    with _of_this_program(place):
        there = {*json.loads((place / "run.json").read_text())["leaves"]}
        if missing := [leaf for leaf in _leaves({"state": like}) if leaf not in there]:
            raise UserError(f"{place} is of another version of this program: no {missing[0]}.")
        template = {"state": jax.tree.map(_like, like._asdict())}
        return Weights(**_load(place, template, partial=True)["state"])


def place_of(out: Path, step: int) -> Path:
    """Name the folder of the checkpoint after a step."""
    return out / CHECKPOINTS / f"{step:08d}"


def keep_last(out: Path, number: int = 1) -> None:
    """Remove the checkpoints of a run but for the last ones."""
    for old in checkpoints(out)[:-number]:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _of_this_program(place: Path) -> Iterator[None]:
    try:
        yield
    except (TypeError, KeyError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{place} is no checkpoint of this program: {reason}.") from None


def _read(place: Path, run: str, start: Snapshot, shorter: Callable[[int], str | None]) -> Snapshot:
    about = json.loads((place / "run.json").read_text())
    epochs = len(about["history"])
    continued_at = tuple(about.get("continued_at", ()))
    if about["run"] != run:
        if about["run"] != shorter(epochs):
            raise UserError(
                f"{place} is a checkpoint of a run with other options: name another directory with "
                f"--out, or remove {place.parent}."
            )
        continued_at += (epochs,)
    state, metrics = jax.tree.map(_like, (start.state, start.metrics))
    past = [metrics] * epochs
    template = _arrays(Snapshot(state, metrics, past, [], 0.0))
    # Orbax would cast in silence.
    if about["leaves"] != _leaves(template):
        raise UserError(
            f"{place} is a checkpoint of another version of this program: name another directory "
            "with --out."
        )
    history = [EpochMetrics(**epoch) for epoch in about["history"]]
    arrays = _load(place, template)
    losses, accuracies = arrays["past"]
    past = [StepMetrics(losses[i], accuracies[i]) for i in range(len(history))]
    state, metrics = arrays["state"], arrays["metrics"]
    return Snapshot(state, metrics, past, history, about["seconds"], continued_at)


def _load(place: Path, template: dict[str, Any], *, partial: bool = False) -> dict[str, Any]:
    from orbax.checkpoint import v1 as orbax

    context = orbax.Context()
    context.multiprocessing.active_processes = {0}
    context.pytree.loading.partial_load = partial
    with context:
        arrays: dict[str, Any] = orbax.load(place.absolute() / "arrays", template)
    return arrays


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


def checkpoints(out: Path) -> list[Path]:
    """List the checkpoints of a run, oldest first."""
    return sorted(place for place in (out / CHECKPOINTS).glob("[0-9]*") if place.name.isdecimal())
