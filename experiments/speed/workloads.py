"""The networks that steps are measured on, with their losses and batches of noise."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from experiments.models import ModelName, build_model
from experiments.models.network import Batch, as_functions, loss_and_outcome
from experiments.models.transformer import LARGE, SMALL, Sizes, Transformer

WorkloadName = ModelName | Literal["transformer", "transformer_large"]


class Workload(NamedTuple):
    """A network to be trained; speed does not depend on data, so its batches are noise.

    Attributes:
        params: Parameters.
        loss: ``(params, batch) -> scalar``.
        batch: Number of examples -> batch, a tree of arrays that all begin with that axis.
        evaluation: The loss with the network in evaluation mode, None where it has one mode only.
    """

    params: chex.ArrayTree
    loss: Callable[[chex.ArrayTree, Any], jax.Array]
    batch: Callable[[int], Any]
    evaluation: Callable[[chex.ArrayTree, Any], jax.Array] | None = None


def workload(name: WorkloadName) -> Workload:
    """Build a workload.

    Args:
        name: A network of `experiments.models` on images of 28x28 pixels, ``transformer``, 3.4
            million parameters on sequences of 64, or ``transformer_large``, 110 million in bfloat16
            on sequences of 128, whose blocks are rematerialised.

    Returns:
        The workload.
    """
    if name == "transformer":
        return _language(SMALL, Transformer(SMALL, nnx.Rngs(0)))
    if name == "transformer_large":
        model = Transformer(LARGE, nnx.Rngs(0), dtype=jnp.bfloat16, remat=True)
        return _language(LARGE, model)
    return image_workload(name)


def _language(sizes: Sizes, model: Transformer) -> Workload:
    graphdef = nnx.graphdef(model)

    def batch(size: int) -> jax.Array:
        return jax.random.randint(jax.random.key(0), (size, sizes.length + 1), 0, sizes.vocabulary)

    def loss(params: chex.ArrayTree, tokens: jax.Array) -> jax.Array:
        logits = nnx.merge(graphdef, params)(tokens[:, :-1]).astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return jnp.mean(losses)

    return Workload(nnx.to_pure_dict(nnx.state(model, nnx.Param)), loss, batch)


def image_workload(name: ModelName, shape: tuple[int, int, int] = (28, 28, 1)) -> Workload:
    """Build a network on images of this height, width and number of channels."""
    noise = np.random.default_rng(0)

    def pixels(size: int) -> NDArray[np.uint8]:
        return noise.integers(0, 256, (size, *shape), np.uint8)

    model = build_model(name, shape, 10, jax.random.key(0))
    network = as_functions(model, pixels(16))

    def batch(size: int) -> Batch:
        images, labels = pixels(size), noise.integers(0, 10, size)
        return Batch(jnp.asarray(images), jnp.asarray(labels))

    def loss(params: chex.ArrayTree, batch: Batch) -> jax.Array:
        return loss_and_outcome(network.train, params, network.batch_stats, batch)[0]

    def evaluation(params: chex.ArrayTree, batch: Batch) -> jax.Array:
        return loss_and_outcome(network.predict, params, network.batch_stats, batch)[0]

    two_modes = bool(jax.tree.leaves(network.batch_stats))
    return Workload(network.params, loss, batch, evaluation if two_modes else None)
