"""Which images make up which batch."""

import jax
import jax.numpy as jnp

from experiments.errors import UserError


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Number of batches in which every image is seen."""
    return -(-num_images // batch_size)


def check_batch_size(batch_size: int, num_images: int) -> None:
    """Raises `UserError` unless there are enough images for a batch, as `epoch_order` needs."""
    if batch_size > num_images:
        raise UserError(
            f"--batch-size must be at most the {num_images} training images, not {batch_size}."
        )


def part_size(part: float, batch_size: int) -> int:
    """Images in a part of a batch, at least one."""
    return max(1, round(part * batch_size))


def epoch_order(key: jax.Array, num_images: int, batch_size: int) -> jax.Array:
    """Shuffle the images into batches.

    The last batch is filled up from the start of the same permutation, so that every image is
    seen in every epoch and all batches have one shape.

    Args:
        key: Key of this epoch.
        num_images: Number of images.
        batch_size: Images per batch, at most ``num_images``.

    Returns:
        Indices (steps, batch_size).
    """
    steps = steps_per_epoch(num_images, batch_size)
    permutation = jax.random.permutation(key, num_images)
    return jnp.resize(permutation, (steps, batch_size))
