"""Augmented batches by one gather from the unsigned bytes on the device.

Zero padding, crop and mirroring only say which pixel goes where, so they cost no arithmetic on
pixels and no copy of the data.
"""

import jax
import jax.numpy as jnp


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
