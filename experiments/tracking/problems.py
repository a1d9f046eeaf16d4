"""The networks that are trained, small enough for two cores."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import nnx
from jax.flatten_util import ravel_pytree

from experiments.data.dataset import DatasetName
from experiments.data.sources import load
from experiments.models.mlp import MLP
from experiments.models.network import Batch, as_functions, loss_and_outcome
from experiments.models.small_cnn import SmallCNN

SettingName = Literal["cnn", "cnn_bn", "mlp"]


class Setting(NamedTuple):
    """A network and its data.

    Attributes:
        title: How figures and tables call it.
        dataset: Its data.
        build: ``(image shape, random streams) -> network``.
        learning_rate: Initial learning rate; at 0.1 the CNN without BatchNorm diverges.
    """

    title: str
    dataset: DatasetName
    build: Callable[[tuple[int, int, int], nnx.Rngs], nnx.Module]
    learning_rate: float


SETTINGS: dict[SettingName, Setting] = {
    "cnn": Setting(
        "Fashion-MNIST, CNN", "fashion_mnist", lambda shape, rngs: SmallCNN(shape, 10, rngs), 0.01
    ),
    "cnn_bn": Setting(
        "Fashion-MNIST, CNN with BatchNorm",
        "fashion_mnist",
        lambda shape, rngs: SmallCNN(shape, 10, rngs, norm=True),
        0.1,
    ),
    "mlp": Setting("digits, MLP", "digits", lambda shape, rngs: MLP(shape, 10, rngs), 0.1),
}

# (flat parameters, batch) -> loss
Loss = Callable[[jax.Array, Batch], jax.Array]


class Evaluation(NamedTuple):
    """The evaluation mode of a network with BatchNorm.

    Attributes:
        batch_stats: Initial running statistics.
        loss: ``(flat parameters, running statistics, batch)`` -> loss.
        advanced: The same -> the statistics after a pass in training.
    """

    batch_stats: chex.ArrayTree
    loss: Callable[[jax.Array, chex.ArrayTree, Batch], jax.Array]
    advanced: Callable[[jax.Array, chex.ArrayTree, Batch], chex.ArrayTree]


class Problem(NamedTuple):
    """A setting with its data, loss and initial parameters.

    Attributes:
        start: seed -> initial parameters, one flat array.
        loss: Of one batch, BatchNorm with the batch's own statistics, as a training step sees it.
        data: All training images.
        learning_rate: Initial learning rate.
        evaluation: None where the network has one mode only.
    """

    start: Callable[[int], jax.Array]
    loss: Loss
    data: Batch
    learning_rate: float
    evaluation: Evaluation | None = None


def make_problem(name: SettingName, data_dir: Path | None = None) -> Problem:
    """Load the data and make the functions of the network.

    The parameters are one flat array, which every tracker takes like any other tree.

    Args:
        name: The setting.
        data_dir: Directory of its data, see experiments.train.

    Returns:
        The problem.

    Raises:
        UserError: The data are missing.
    """
    setting = SETTINGS[name]
    data = load(setting.dataset, data_dir)
    height, width, channels = map(int, data.train_images.shape[1:])

    def build(seed: int) -> nnx.Module:
        return setting.build((height, width, channels), nnx.Rngs(params=jax.random.key(seed)))

    network = as_functions(build(0), data.train_images)
    unravel = ravel_pytree(network.params)[1]

    def start(seed: int) -> jax.Array:
        params: chex.ArrayTree = nnx.to_pure_dict(nnx.state(build(seed), nnx.Param))
        flat: jax.Array = ravel_pytree(params)[0]
        return flat

    def loss(flat: jax.Array, batch: Batch) -> jax.Array:
        return loss_and_outcome(network.train, unravel(flat), network.batch_stats, batch)[0]

    def evaluated(flat: jax.Array, batch_stats: chex.ArrayTree, batch: Batch) -> jax.Array:
        return loss_and_outcome(network.predict, unravel(flat), batch_stats, batch)[0]

    def advanced(flat: jax.Array, batch_stats: chex.ArrayTree, batch: Batch) -> chex.ArrayTree:
        outcome = loss_and_outcome(network.train, unravel(flat), batch_stats, batch)[1]
        return outcome.batch_stats

    has_two = bool(jax.tree.leaves(network.batch_stats))
    evaluation = Evaluation(network.batch_stats, evaluated, advanced) if has_two else None
    batch = Batch(jnp.asarray(data.train_images), jnp.asarray(data.train_labels))
    return Problem(start, loss, batch, setting.learning_rate, evaluation)
