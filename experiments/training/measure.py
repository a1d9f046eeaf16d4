"""Measures a network: curvature on a fixed subset, loss and accuracy on a data set.

Both are measured alike for every method, with the running statistics of BatchNorm.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from experiments.models.network import Apply, Batch, loss_and_outcome, per_image
from experiments.training.batches import steps_per_epoch
from xsam_jax import curvature, mean_grad_fn

# The paper's radius for CIFAR-10 and Fashion-MNIST. The angle is measured with the same one for
# every method, its own radius being a different thing for WSAM and ASAM and none at all for SGD.
_RADIUS = 0.05
_BATCH_SIZE = 256


class Sharpness(NamedTuple):
    """Curvature at one point of the training.

    Attributes:
        lambda_max: Largest eigenvalue of the Hessian.
        angle: Degrees in [0, 90] between SAM's second gradient and the eigenvector of
            ``lambda_max``; an eigenvector has no sign, so 100 degrees are 80.
    """

    lambda_max: jax.Array
    angle: jax.Array


def fold(degrees: jax.Array) -> jax.Array:
    """Fold an angle to [0, 90] degrees, because an eigenvector's sign is arbitrary."""
    return jnp.minimum(degrees, 180 - degrees)


def fixed_subset(data: Batch, size: int) -> Batch:
    """Draw the images on which the curvature is measured.

    Args:
        data: The training data.
        size: Number of images, at most all; rounded down to a multiple of the number of batches.

    Returns:
        Equal batches of at most 256, stacked on a leading axis; the same ones whatever the seed of
        the run.
    """
    size = min(size, len(data.images))
    batches = steps_per_epoch(size, _BATCH_SIZE)
    chosen = jax.random.permutation(jax.random.key(0), len(data.images))
    indices = chosen[: size - size % batches].reshape(batches, -1)
    return Batch(data.images[indices], data.labels[indices])


def make_measure(
    predict: Apply, num_matvecs: int
) -> Callable[[chex.ArrayTree, chex.ArrayTree, Batch], Sharpness]:
    """Compile the measurement for a network.

    BatchNorm uses its running statistics, so that the loss is one function of the parameters,
    whatever the batches.

    Args:
        predict: The network's forward pass in evaluation.
        num_matvecs: Hessian-vector products of the Lanczos method.

    Returns:
        A function of parameters, batch statistics and batches stacked on a leading axis.
    """

    @jax.jit
    def measure(params: chex.ArrayTree, batch_stats: chex.ArrayTree, subset: Batch) -> Sharpness:
        grad_fn = subset_gradient(predict, batch_stats, subset)
        top = curvature.top_eigenpairs(
            grad_fn, params, k=1, num_matvecs=num_matvecs, which="LA", key=jax.random.key(0)
        )
        eigenvector = jax.tree.map(lambda leaf: leaf[0], top.vectors)
        return Sharpness(top.values[0], angle_to(eigenvector, grad_fn, params))

    return measure


def angle_to(
    vector: chex.ArrayTree, grad_fn: Callable[[chex.ArrayTree], chex.ArrayTree], params: Any
) -> jax.Array:
    """Degrees in [0, 90] between SAM's second gradient at a point and an eigenvector."""
    grads = grad_fn(params)
    radius = _RADIUS / jnp.maximum(optax.tree.norm(grads), 1e-12)
    perturbed = grad_fn(optax.tree.add_scale(params, radius, grads))
    return fold(curvature.angle(perturbed, vector))


def make_trace(
    predict: Apply, num_probes: int
) -> Callable[[chex.ArrayTree, chex.ArrayTree, Batch], curvature.Estimate]:
    """Compile the estimate of the Hessian's trace, of the loss that `make_measure` has.

    Args:
        predict: The network's forward pass in evaluation.
        num_probes: Random vectors, a Hessian-vector product each.

    Returns:
        A function of parameters, batch statistics and batches stacked on a leading axis.
    """

    @jax.jit
    def estimate(
        params: chex.ArrayTree, batch_stats: chex.ArrayTree, subset: Batch
    ) -> curvature.Estimate:
        grad_fn = subset_gradient(predict, batch_stats, subset)
        return curvature.trace(grad_fn, params, num_probes=num_probes, key=jax.random.key(0))

    return estimate


def subset_gradient(
    apply: Apply, batch_stats: chex.ArrayTree, subset: Batch
) -> Callable[[chex.ArrayTree], chex.ArrayTree]:
    """Make the gradient of the mean loss over batches stacked on a leading axis."""

    def loss_fn(params: chex.ArrayTree, batch: Batch) -> jax.Array:
        return loss_and_outcome(apply, params, batch_stats, batch)[0]

    return mean_grad_fn(loss_fn, subset)


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
