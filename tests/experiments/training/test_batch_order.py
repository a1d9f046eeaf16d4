"""Every epoch sees every image, in an order that its key alone decides."""

import jax
import numpy as np
import pytest

from experiments.training.batches import epoch_order, steps_per_epoch


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 5), (11, 5), (7, 7), (9, 8), (3, 1)])
def test_every_image_is_seen(num_images: int, batch_size: int) -> None:
    order = np.asarray(epoch_order(jax.random.key(0), num_images, batch_size))
    assert order.shape == (steps_per_epoch(num_images, batch_size), batch_size)
    counts = np.bincount(order.ravel(), minlength=num_images)
    assert counts.min() == 1
    # The last batch is filled from the start of the permutation, so none comes three times.
    assert counts.max() <= 2
    surplus = order.size - num_images
    np.testing.assert_array_equal(order.ravel()[num_images:], order.ravel()[:surplus])


def test_key_decides() -> None:
    orders = [np.asarray(epoch_order(jax.random.key(k), 50, 10)) for k in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
