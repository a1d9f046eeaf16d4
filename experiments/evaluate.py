"""Loss and accuracy on a whole data set, with the running statistics of BatchNorm."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from experiments.batches import steps_per_epoch
from experiments.network import Apply, Batch, per_image


class Evaluation(NamedTuple):
    """Mean cross-entropy, and accuracy in [0, 1]."""

    loss: jax.Array
    accuracy: jax.Array


def make_evaluate(
    predict: Apply, batch_size: int
) -> Callable[[chex.ArrayTree, chex.ArrayTree, Batch], Evaluation]:
    """Compile the evaluation of a network.

    Args:
        predict: The network's forward pass in evaluation.
        batch_size: Images per batch; it bounds the memory and does not change the result.

    Returns:
        A function of parameters, batch statistics and data.
    """

    @jax.jit
    def evaluate(params: chex.ArrayTree, batch_stats: chex.ArrayTree, data: Batch) -> Evaluation:
        size = len(data.images)
        batches = steps_per_epoch(size, batch_size)
        indices = jnp.arange(batches * batch_size).reshape(batches, batch_size)

        def body(total: Evaluation, index: jax.Array) -> tuple[Evaluation, None]:
            # The last batch is filled up with the last image, which the mask counts out.
            taken = jnp.minimum(index, size - 1)
            logits, _ = predict(params, batch_stats, data.images[taken])
            losses, hits = per_image(logits, data.labels[taken])
            mask = index < size
            new = Evaluation(jnp.sum(losses * mask), jnp.sum(hits * mask))
            return jax.tree.map(jnp.add, total, new), None

        zero = Evaluation(jnp.zeros(()), jnp.zeros(()))
        total, _ = jax.lax.scan(body, zero, indices)
        return Evaluation(total.loss / size, total.accuracy / size)

    return evaluate
