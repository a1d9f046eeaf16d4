"""Which images make up which batch, and their augmentation by one gather.

Zero padding, crop and mirroring only say which pixel of the unsigned bytes on the device goes
where, so they cost no arithmetic on pixels and no copy of the data.
"""

import jax
import jax.numpy as jnp

from experiments.common.errors import UserError


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Count the batches of an epoch, in which every image is seen."""
    return -(-num_images // batch_size)


def check_batch_size(batch_size: int, num_images: int) -> None:
    """Raises `UserError` unless there are enough images for a batch, as `epoch_order` needs."""
    if batch_size > num_images:
        raise UserError(
            f"--batch-size must be at most the {num_images} training images, not {batch_size}."
        )


def part_size(part: float, batch_size: int) -> int:
    """Count the images in a part of a batch, at least one."""
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


def augmented(
    images: jax.Array, indices: jax.Array, key: jax.Array, *, crop_padding: int, flip: bool
) -> jax.Array:
    """Take a batch of images, each with its own random crop and mirroring.

    Args:
        images: All images (n, height, width, channels).
        indices: The batch's images (batch_size,).
        key: Key of this batch.
        crop_padding: Pixels of zero padding around an image, out of which one of the original size
            is cropped.
        flip: Whether to mirror every other image left to right, by chance.

    Returns:
        Images (batch_size, height, width, channels) of the same dtype.
    """
    height, width = images.shape[1:3]
    crop_key, flip_key = jax.random.split(key)
    crops = jax.random.randint(
        crop_key, (2 * len(indices),), -crop_padding, crop_padding + 1
    ).reshape(2, -1, 1)
    rows, columns = jnp.arange(height) + crops[0], jnp.arange(width) + crops[1]
    if flip:
        mirrored = jax.random.bernoulli(flip_key, shape=(len(indices),))[:, None]
        columns = jnp.where(mirrored, columns[:, ::-1], columns)
    # A negative index would count from the end; past the end lies the padding on every side.
    rows = jnp.where(rows < 0, height, rows)
    columns = jnp.where(columns < 0, width, columns)
    pixels = images.at[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
    return pixels.get(mode="fill", fill_value=0)
