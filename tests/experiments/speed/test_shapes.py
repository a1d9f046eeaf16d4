"""The convolutions of a network: which there are, what they compute, and the table."""

import numpy as np
import pytest
from jax import lax

from experiments.speed.shapes import KINDS, LIBRARIES, Convolution, convolutions, table
from experiments.speed.workloads import image_workload


def test_the_six_layer_network_has_four() -> None:
    work = image_workload("simple_cnn", (32, 32, 3))
    found = convolutions(work.loss, work.params, work.batch(2))
    assert {layer.kernel[2:]: n for layer, n in found.items()} == {
        (3, 32): 1,
        (32, 32): 1,
        (32, 64): 1,
        (64, 64): 1,
    }
    assert {layer.images[:3] for layer in found} == {(2, 32, 32), (2, 16, 16)}


def test_equal_layers_are_counted_and_inner_ones_found() -> None:
    layer = Convolution((2, 8, 8, 4), (3, 3, 4, 4), 1, 1)
    images, kernel = (np.zeros(shape, np.float32) for shape in layer[:2])

    def twice_in_a_loop(images: np.ndarray, kernel: np.ndarray) -> object:
        once = layer.layer(images, kernel)
        return lax.scan(lambda x, _: (layer.layer(x, kernel), None), once, length=3)[0]

    assert convolutions(twice_in_a_loop, images, kernel) == {layer: 2}


@pytest.mark.parametrize(("stride", "outputs"), [(1, 64), (2, 16)])
def test_operations_by_hand(stride: int, outputs: int) -> None:
    layer = Convolution((5, 8, 8, 3), (3, 3, 3, 7), stride, 1)
    assert layer.gigaflops() == pytest.approx(2 * 5 * outputs * 9 * 3 * 7 / 1e9)


def test_table_has_the_speed_of_the_lower_quartile() -> None:
    taken = {name: [1.0, 2.0, 2.0, 2.0, 9.0] for name in LIBRARIES} | {"oneDNN": [4.0] * 5}
    row = {
        "convolution": "3x3 on 8x8, 4 to 4",
        "times": 2,
        "gigaflops": 16.0,
        "seconds": {kind: taken for kind in KINDS},
    }
    assert "| 3x3 on 8x8, 4 to 4 | 2 | 16.00 | 8, 8, 4 (2.00) |" in table([row])
