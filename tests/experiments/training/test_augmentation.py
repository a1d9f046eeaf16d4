"""Augmentation only moves pixels, by each shift and mirroring equally often."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training.batches import augmented

PIXELS = np.random.default_rng(0).integers(1, 256, (6, 5, 4, 2), np.uint8)
IMAGES = jnp.asarray(PIXELS)


def test_without_crop_and_flip_it_only_takes_images() -> None:
    indices = jnp.array([3, 0, 3])
    taken = augmented(IMAGES, indices, jax.random.key(0), crop_padding=0, flip=False)
    assert taken.dtype == jnp.uint8
    np.testing.assert_array_equal(taken, PIXELS[[3, 0, 3]])


def variants(image: np.ndarray, padding: int, flip: bool) -> list[bytes]:
    """Make all results that are allowed, in a slow and obvious way."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    shifts = itertools.product(range(2 * padding + 1), repeat=2)
    crops = [padded[y : y + height, x : x + width] for y, x in shifts]
    return [crop[:, ::step].tobytes() for crop in crops for step in ((1, -1) if flip else (1,))]


@pytest.mark.parametrize(("padding", "flip"), [(1, True), (2, False), (0, True)])
def test_all_variants_are_equally_frequent(padding: int, flip: bool) -> None:
    allowed = variants(PIXELS[2], padding, flip)
    n = 200 * len(allowed)
    batch = augmented(IMAGES, jnp.full(n, 2), jax.random.key(1), crop_padding=padding, flip=flip)
    images = np.asarray(batch)
    counts = dict.fromkeys(allowed, 0)
    for image in images:
        counts[image.tobytes()] += 1  # KeyError: a result that is not allowed
    # Five standard deviations of a binomial count.
    assert all(abs(count - 200) < 5 * 200**0.5 for count in counts.values())


def test_each_image_has_its_own_and_each_key_another() -> None:
    indices = jnp.full(64, 1)
    one = augmented(IMAGES, indices, jax.random.key(0), crop_padding=2, flip=True)
    other = augmented(IMAGES, indices, jax.random.key(1), crop_padding=2, flip=True)
    again = augmented(IMAGES, indices, jax.random.key(0), crop_padding=2, flip=True)
    assert len({image.tobytes() for image in np.asarray(one)}) > 20
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(one, again)
