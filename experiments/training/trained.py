"""A trained network with all that it was trained with: `load`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.common.errors import UserError
from experiments.common.files import read_json
from experiments.data.dataset import Dataset
from experiments.data.sources import fingerprint
from experiments.models.network import (
    Batch,
    Inputs,
    Network,
    inputs_of,
    loss_and_outcome,
    network_for,
)
from experiments.training.checkpoint import Weights, checkpoints, last_whole, read_weights
from experiments.training.config import ResolvedConfig
from experiments.training.program import load_for
from experiments.training.record import read_record
from experiments.training.run_folder import Result
from experiments.training.step import EpochMetrics

_BATCH_SIZE = 256  # it bounds the memory of a prediction


@dataclass(frozen=True)
class TrainedRun:
    """A run of `experiments.train`, from its folder.

    Attributes:
        out: The folder.
        config: What it was told, with every default filled in.
        result: What result.json holds; None of a run that is not finished.
        epochs: The lines of metrics.jsonl up to there.
        continued_at: See `Result`.
        params: Parameters at its end, or at the last checkpoint of a run that is not finished.
        batch_stats: Running statistics of BatchNorm there, an empty tree without any.
        inputs: What the network was told of its data.
        classes: Names of the classes in the order of the labels, of `folder` alone.
    """

    out: Path
    config: ResolvedConfig
    result: Result | None
    epochs: list[EpochMetrics] = field(repr=False)
    continued_at: tuple[int, ...]
    params: chex.ArrayTree = field(repr=False)
    batch_stats: chex.ArrayTree = field(repr=False)
    inputs: Inputs
    classes: tuple[str, ...] = ()

    @cached_property
    def data(self) -> Dataset:
        """The images that it was trained and tested on, with its wrong labels; read when asked for.

        Raises:
            UserError: They are not where they were, or others are there: name their place,
                ``load(..., data_dir=...)``.
        """
        c = self.config
        way_out = "Name the place of its images with --data-dir, or load(..., data_dir=...)."
        try:
            same = fingerprint(c.dataset, c.data_dir) == c.images
            data = load_for(c) if same else None
        except UserError as error:
            raise UserError(f"{error} {way_out}") from None
        if data is None or not _alike(inputs_of(data), self.inputs):
            where = c.dataset if c.data_dir is None else c.data_dir
            raise UserError(f"{where} does not hold the images of the run {self.out}. {way_out}")
        return data

    @cached_property
    def network(self) -> Network:
        """The network as functions of its parameters, in training and in evaluation."""
        return network_for(self.config.model, self.inputs)

    def predict(self, images: ArrayLike) -> NDArray[np.float32]:
        """Classify images, with the running statistics of BatchNorm.

        For a function that can be traced take ``network.predict``.

        Args:
            images: Unsigned bytes (n, height, width, channels), raw as in ``data``: the network
                brings its own normalisation.

        Returns:
            Logits (n, classes); ``argmax(-1)`` is the class.

        Raises:
            ValueError: The images have another dtype or shape.
        """
        pixels = np.asarray(images)
        shape = tuple(self.inputs.image_shape)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != shape or pixels.ndim != 4:
            raise ValueError(
                f"images must be uint8 of shape (n, {', '.join(map(str, shape))}), as in the data "
                f"set, not {pixels.dtype} of {pixels.shape}."
            )
        logits = [np.zeros((0, self.inputs.num_classes), np.float32)]
        size = min(len(pixels), _BATCH_SIZE)
        for first in range(0, len(pixels), _BATCH_SIZE):
            batch = pixels[first : first + size]
            # One shape, so that it is compiled once.
            full = np.pad(batch, ((0, size - len(batch)), (0, 0), (0, 0), (0, 0)))
            logits.append(np.asarray(self._logits(full))[: len(batch)])
        return np.concatenate(logits)

    def loss_fn(self, params: chex.ArrayTree, batch: Any) -> jax.Array:
        """Mean cross-entropy in evaluation mode, a pure function of the parameters.

        It goes into `jax.grad` and `xsam_jax.mean_grad_fn`, and so into `xsam_jax.curvature`.

        Args:
            params: Parameters like those of the run.
            batch: Images, as `predict` takes them, and labels (n,), in this order.

        Returns:
            The loss, a scalar, in nats.
        """
        images, labels = batch
        apply, stats = self.network.predict, self.batch_stats
        batch = Batch(jnp.asarray(images), jnp.asarray(labels))
        return loss_and_outcome(apply, params, stats, batch)[0]

    @cached_property
    def _logits(self) -> Callable[[NDArray[np.uint8]], jax.Array]:
        apply = jax.jit(lambda *arguments: self.network.predict(*arguments)[0])
        return lambda images: apply(self.params, self.batch_stats, images)


def load(directory: str | Path, *, data_dir: str | Path | None = None) -> TrainedRun:
    """Load a trained network, whatever devices and method it was trained with.

    Args:
        directory: Folder of the run. It may have been moved, and the data are not needed.
        data_dir: Directory of the data set (None: where the run read it).

    Returns:
        The run. One that is not finished is loaded as its last checkpoint has it, its ``result`` is
        None.

    Raises:
        UserError: The folder is no run's, holds no weights, or a file of it is damaged.
    """
    record = read_record(Path(directory))
    out, config = record.out, record.config
    place, inputs = last_whole(out), out / "inputs.json"
    if place is None or not inputs.exists():
        raise UserError(_without_weights(out, finished=record.result is not None))
    if data_dir is not None:
        config = replace(config, data_dir=Path(data_dir))
    try:
        written = read_json(inputs)
        classes = tuple(written.pop("classes", ()))
        known = Inputs(**written)
    except (AttributeError, TypeError):
        raise UserError(f"{inputs} is of another version of this program.") from None
    # Those after the checkpoint are not in its weights.
    epochs = record.epochs[: len(read_json(place / "run.json")["history"])]
    network = network_for(config.model, known)
    weights = read_weights(place, Weights(network.params, network.batch_stats))
    params, batch_stats = jax.tree.map(jnp.asarray, weights)
    return TrainedRun(
        out, config, record.result, epochs, record.continued_at, params, batch_stats, known, classes
    )


def _alike(ours: Inputs, theirs: Inputs) -> bool:
    """Whether shape and classes are equal, and the pixels' statistics but for rounding."""
    return (*ours.image_shape, ours.num_classes) == (*theirs.image_shape, theirs.num_classes) and (
        np.allclose([*ours.mean, *ours.scale], [*theirs.mean, *theirs.scale], rtol=1e-4)
    )


def _without_weights(out: Path, *, finished: bool) -> str:
    if checkpoints(out):
        return f"{out} holds damaged weights only: train it again in another folder."
    if finished:
        return (
            f"{out} holds a finished run without its weights, which an earlier version of this "
            "program removed: train it again in another folder."
        )
    return f"{out} holds a run that is not finished and has no checkpoint: let it go on first."
