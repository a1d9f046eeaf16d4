"""A Flax network as pure functions of its parameters."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from experiments.common.errors import UserError
from experiments.common.machine import available_mib
from experiments.data.dataset import Dataset
from experiments.models import ModelName, build_model

# Pixels whose statistics are taken at a time.
_COUNTED = 1 << 20
# Pixels of an image for which every network is small.
_SMALL = 64 * 64
# Of a parameter, its gradients, its momentum and its part of an eigenvector, in float32.
_BYTES = 24


class Batch(NamedTuple):
    """Images as unsigned bytes (..., height, width, channels) and their labels (...)."""

    images: chex.Array
    labels: chex.Array


class Inputs(NamedTuple):
    """What a network must know of its data.

    Attributes:
        image_shape: Height, width and channels.
        num_classes: Number of classes.
        mean: Of the training images' pixels, for each channel.
        scale: Reciprocal of their standard deviation.
    """

    image_shape: Sequence[int]
    num_classes: int
    mean: Sequence[float]
    scale: Sequence[float]


class Outcome(NamedTuple):
    """What a pass over a batch returns beside its loss."""

    accuracy: jax.Array
    batch_stats: chex.ArrayTree


# (params, batch_stats, images) -> logits, and the batch statistics after the pass
Apply = Callable[[chex.ArrayTree, chex.ArrayTree, jax.Array], tuple[jax.Array, chex.ArrayTree]]


class Network(NamedTuple):
    """A network: its initial trees, and its forward pass in training and in evaluation."""

    params: chex.ArrayTree
    batch_stats: chex.ArrayTree
    train: Apply
    predict: Apply


def build_network(
    name: ModelName, data: Dataset, key: jax.Array, axis_name: str | None = None
) -> Network:
    """Build a network for a data set.

    Args:
        name: Its name.
        data: The data set.
        key: Key of its initial parameters.
        axis_name: Axis of `jax.shard_map` over which BatchNorm averages in training.

    Returns:
        The network.

    Raises:
        UserError: The images are so large that the network does not fit into the memory.
    """
    height, width, channels = map(int, data.train_images.shape[1:])
    _check_size(name, (height, width, channels), data.num_classes)
    model = build_model(name, (height, width, channels), data.num_classes, key)
    return as_functions(model, data.train_images, axis_name)


def inputs_of(data: Dataset) -> Inputs:
    """What a network must know of a data set."""
    mean, scale = _pixel_statistics(data.train_images)
    shape = data.train_images.shape[1:]
    return Inputs(list(map(int, shape)), data.num_classes, mean.tolist(), scale.tolist())


def network_for(name: ModelName, inputs: Inputs) -> Network:
    """The functions of a network whose parameters come from elsewhere.

    Args:
        name: Its name.
        inputs: What it was told of its data.

    Returns:
        The same as `build_network`, with shapes and dtypes in the place of its initial trees.
    """
    height, width, channels = inputs.image_shape
    shape = height, width, channels
    model = nnx.eval_shape(lambda: build_model(name, shape, inputs.num_classes, jax.random.key(0)))
    mean, scale = np.array(inputs.mean, np.float32), np.array(inputs.scale, np.float32)
    return _as_functions(model, mean, scale)


def _check_size(name: ModelName, image_shape: tuple[int, int, int], num_classes: int) -> None:
    if math.prod(image_shape[:2]) <= _SMALL:
        return
    model = nnx.eval_shape(lambda: build_model(name, image_shape, num_classes, jax.random.key(0)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    parameters = sum(math.prod(leaf.shape) for leaf in leaves)
    needed, available = parameters * _BYTES / 2**30, available_mib() / 2**10
    if needed > available:
        height, width, _ = image_shape
        raise UserError(
            f"{name} has {parameters:,} parameters for images of {width}x{height} pixels, which "
            f"need {needed:.0f} GiB of memory, and {available:.0f} GiB are there: take smaller "
            "images, with --image-size, or alexnet or a resnet, which do not grow with them."
        )


def as_functions(
    model: nnx.Module, train_images: NDArray[np.uint8], axis_name: str | None = None
) -> Network:
    """Turn a Flax network into functions of its parameters and statistics.

    Args:
        model: The network, called as ``model(images, train=...)``.
        train_images: Images from which its input's mean and standard deviation are taken, channel
            by channel.
        axis_name: Axis of `jax.shard_map` over which BatchNorm averages in training.

    Returns:
        The same network as functions of its parameters.
    """
    for _, module in nnx.iter_graph(model):
        if isinstance(module, nnx.BatchNorm):
            module.axis_name = axis_name
    return _as_functions(model, *_pixel_statistics(train_images))


def _as_functions(
    model: nnx.Module, mean: NDArray[np.float32], scale: NDArray[np.float32]
) -> Network:
    graphdef = nnx.graphdef(model)

    def apply(train: bool) -> Apply:
        def forward(
            params: chex.ArrayTree, batch_stats: chex.ArrayTree, images: jax.Array
        ) -> tuple[jax.Array, chex.ArrayTree]:
            # Pure dicts make new variables, so that a trace never writes into an outer one's.
            network = nnx.merge(graphdef, params, batch_stats)
            logits = network((images.astype(jnp.float32) - mean) * scale, train=train)
            return logits, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

        return forward

    return Network(
        params=nnx.to_pure_dict(nnx.state(model, nnx.Param)),
        batch_stats=nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)),
        train=apply(train=True),
        predict=apply(train=False),
    )


def loss_and_outcome(
    apply: Apply, params: chex.ArrayTree, batch_stats: chex.ArrayTree, batch: Batch
) -> tuple[jax.Array, Outcome]:
    """Compute the mean cross-entropy of a batch, its accuracy and the new batch statistics."""
    logits, batch_stats = apply(params, batch_stats, batch.images)
    losses, hits = per_image(logits, batch.labels)
    return losses.mean(), Outcome(hits.mean(), batch_stats)


def batch_gradient(
    apply: Apply, params: chex.ArrayTree, batch_stats: chex.ArrayTree, batch: Batch
) -> tuple[chex.ArrayTree, tuple[jax.Array, jax.Array], chex.ArrayTree]:
    """Compute the gradient of a batch, with its loss, accuracy and new batch statistics."""
    loss_fn = partial(loss_and_outcome, apply, batch_stats=batch_stats, batch=batch)
    (loss, outcome), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    return grads, (loss, outcome.accuracy), outcome.batch_stats


def per_image(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute the cross-entropy of each image, and 1 where its class is found, else 0."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses, (logits.argmax(-1) == labels).astype(jnp.float32)


def _pixel_statistics(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and reciprocal standard deviation of each channel.

    By counting: in float64 the images would take eight times their memory.
    """
    pixels = images.reshape(-1, images.shape[-1])
    counts, values = np.zeros((pixels.shape[1], 256), np.int64), np.arange(256)
    for start in range(0, len(pixels), _COUNTED):
        for channel, part in enumerate(pixels[start : start + _COUNTED].T):
            counts[channel] += np.bincount(part, minlength=256)
    mean = counts @ values / counts.sum(axis=1)
    squares = counts * (values - mean[:, None]) ** 2
    deviation = np.sqrt(squares.sum(axis=1) / counts.sum(axis=1))
    return mean.astype(np.float32), (1 / np.maximum(deviation, 1e-6)).astype(np.float32)
