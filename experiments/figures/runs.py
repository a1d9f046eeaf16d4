"""Training runs that are done once and then read from their folder."""

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import chex
import jax
import numpy as np
from numpy.typing import NDArray

from experiments.common.files import damaged, write_atomically
from experiments.models.network import Network
from experiments.training.config import TrainConfig, canonical
from experiments.training.program import Observe
from experiments.training.record import read_finished
from experiments.training.resolve import resolve
from experiments.training.run import train
from experiments.training.run_folder import Result
from experiments.training.step import EpochMetrics, TrainState


class Run(NamedTuple):
    """A finished run and its folder."""

    out: Path
    result: Result
    epochs: list[EpochMetrics]


def run_once(
    config: TrainConfig,
    runs: Path,
    *,
    observe: Observe | None = None,
    save: Mapping[str, Callable[[TrainState], bytes]] | None = None,
) -> Run:
    """Train, or read the run if it was finished before.

    Args:
        config: The run; its folder is named after it.
        runs: Folder of all runs.
        observe: See `train`.
        save: Names of further files of the run, and what is in them. A run that lacks one of them
            is not finished.

    Returns:
        The run.

    Raises:
        UserError: See `train`.
    """
    save = save or {}
    out = folder(config, runs, save)
    result = out / "result.json"
    if all((out / name).exists() for name in (*save, result.name)):
        run = Run(out, *read_finished(out))
    else:

        def on_end(state: TrainState) -> None:
            for name, content in save.items():
                write_atomically(out / name, content(state))

        trained = train(replace(config, out=out), observe=observe, on_end=on_end)
        run = Run(out, trained.result, trained.epochs)
    print(f"{out}: {run.result.test_accuracy:.2f} %, {run.result.seconds:.0f} s", flush=True)
    return run


def folder(config: TrainConfig, runs: Path, files: Iterable[str] = ()) -> Path:
    """Name the folder of a run: runs share one only if all their numbers must be the same.

    Args:
        config: The run.
        runs: Folder of all runs.
        files: Names of its further files. What a run measures for them is in its checkpoints too.

    Returns:
        The folder.
    """
    content = " ".join((canonical(resolve(config)), *files))
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return runs / f"{config.dataset}-{config.model}-{config.method}-{config.seed}-{digest}"


def arrays(**values: Any) -> bytes:
    """Make the content of an .npz file."""
    content = io.BytesIO()
    np.savez(content, **values)
    return content.getvalue()


def weights(state: TrainState) -> bytes:
    """Make an .npz file of a final state's parameters and batch statistics."""
    leaves = jax.tree.leaves((state.params, state.batch_stats))
    return arrays(**{str(i): leaf for i, leaf in enumerate(leaves)})


def read_weights(file: Path, network: Network) -> tuple[chex.ArrayTree, chex.ArrayTree]:
    """Read the parameters and batch statistics that `weights` wrote."""
    leaves, structure = jax.tree.flatten((network.params, network.batch_stats))
    read = read_arrays(file, [str(i) for i in range(len(leaves))])
    params, batch_stats = jax.tree.unflatten(structure, read)
    return params, batch_stats


def read_arrays(file: Path, names: Sequence[str]) -> list[NDArray[Any]]:
    """Read the arrays that `arrays` wrote to a file of a run.

    Raises:
        UserError: It is something else.
    """
    try:
        with np.load(file) as content:
            return [content[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        raise damaged(file.parent) from None
