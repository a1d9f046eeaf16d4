"""The idx reader and the loaders: what is right passes unchanged, what is wrong says so."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from experiments.common.errors import UserError
from experiments.data.dataset import Dataset, DatasetName, hold_out
from experiments.data.idx import read_idx
from experiments.data.sources import LOADERS, load
from experiments.training.config import TrainConfig
from experiments.training.program import load_for
from experiments.training.resolve import resolve


def idx(array: NDArray[np.uint8]) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)


@pytest.mark.parametrize("shape", [(7,), (5, 4, 3), (1, 1, 1)])
def test_idx_round_trip(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    file = tmp_path / "x.gz"
    file.write_bytes(gzip.compress(idx(array)))
    np.testing.assert_array_equal(read_idx(file, len(shape)), array)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda x: x, "cannot be read"),
        (lambda x: gzip.compress(b"\x00\x00\x0d\x03" + x[4:]), "not an idx file"),
        (lambda x: gzip.compress(b"\x00\x00\x08\x02" + x[4:]), "not an idx file"),
        (lambda x: gzip.compress(b""), "not an idx file"),
        (lambda x: gzip.compress(x[:10]), "ends within its header"),
        (lambda x: gzip.compress(x[:-1]), "fewer than the 60 bytes"),
        (lambda x: gzip.compress(x + b"!"), "more than the 60 bytes"),
        (lambda x: gzip.compress(x)[:-9], "stream ends too early"),
        (lambda x: gzip.compress(x)[:-8] + bytes(8), "cannot be read"),
        (lambda x: gzip.compress(x[:4] + b"\xff" * 12 + x[16:]), "impossible shape"),
        (lambda x: gzip.compress(x[:4] + bytes(12)), "impossible shape"),
    ],
    ids=[
        "not gzip",
        "other dtype",
        "other ndim",
        "empty",
        "short header",
        "short",
        "long",
        "cut gzip",
        "bad checksum",
        "huge",
        "no images",
    ],
)
def test_bad_idx(
    tmp_path: Path, images: NDArray[np.uint8], damage: Callable[[bytes], bytes], words: str
) -> None:
    file = tmp_path / "x.gz"
    file.write_bytes(damage(idx(images)))
    with pytest.raises(UserError, match=words) as error:
        read_idx(file, 3)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)


def write_fashion_mnist(directory: Path, **replaced: NDArray[np.uint8]) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3": rng.integers(0, 256, (30, 28, 28), np.uint8),
        "train-labels-idx1": rng.integers(0, 10, 30, np.uint8),
        "t10k-images-idx3": rng.integers(0, 256, (10, 28, 28), np.uint8),
        "t10k-labels-idx1": rng.integers(0, 10, 10, np.uint8),
    }
    for name, array in (arrays | replaced).items():
        (directory / f"{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))


def test_fashion_mnist_from_a_directory(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    data = load("fashion_mnist", tmp_path)
    assert data.train_images.shape == (30, 28, 28, 1)
    assert data.test_images.shape == (10, 28, 28, 1)
    assert data.train_images.dtype == np.uint8
    assert data.train_labels.dtype == np.int32


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("train-labels-idx1", np.zeros(29, np.uint8), "29 labels for 30 images"),
        ("train-labels-idx1", np.full(30, 10, np.uint8), r"label 10, outside \[0, 10\)"),
        ("t10k-images-idx3", np.zeros((10, 32, 32), np.uint8), r"\(32, 32\), not \(28, 28\)"),
    ],
)
def test_inconsistent_fashion_mnist(
    tmp_path: Path, name: str, array: NDArray[np.uint8], words: str
) -> None:
    write_fashion_mnist(tmp_path, **{name: array})
    with pytest.raises(UserError, match=words):
        load("fashion_mnist", tmp_path)


def test_missing_fashion_mnist_names_the_way_to_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"apt-get install dataset-fashion-mnist.*--data-dir"):
        load("fashion_mnist", tmp_path)


def test_digits() -> None:
    data = load("digits")
    assert data.train_images.shape == (1437, 8, 8, 1)
    assert data.test_images.shape == (360, 8, 8, 1)
    assert data.train_images.max() == 16
    # Stratified: every class has its share in both parts.
    assert np.ptp(np.bincount(data.train_labels)) <= 8
    assert np.ptp(np.bincount(data.test_labels)) <= 3
    np.testing.assert_array_equal(data.test_images, load("digits").test_images)


def test_every_name_has_a_loader() -> None:
    assert set(LOADERS) == set(get_args(DatasetName))


def test_held_out_images_are_training_images_in_the_place_of_the_test_images() -> None:
    data = load("digits")
    held = hold_out(data, 200)
    assert (len(held.train_labels), len(held.test_labels)) == (len(data.train_labels) - 200, 200)
    both = np.concatenate([held.train_images, held.test_images]).reshape(-1, 64)
    np.testing.assert_array_equal(
        np.sort(both, axis=0), np.sort(data.train_images.reshape(-1, 64), axis=0)
    )
    assert np.bincount(held.test_labels).min() > 0


def test_with_a_held_out_set_a_run_trains_on_the_same_few_images() -> None:
    whole, held = (
        load_for(resolve(TrainConfig(train_images=600, test_images=9, validation_images=size)))
        for size in (None, 837)
    )
    np.testing.assert_array_equal(held.train_images, whole.train_images)
    np.testing.assert_array_equal(held.test_images, hold_out(load("digits"), 837).test_images)


@pytest.mark.parametrize("held_out", [None, 837])
def test_wrong_labels(held_out: int | None) -> None:
    def noisy(part: float) -> Dataset:
        images = {"train_images": 600, "validation_images": held_out}
        return load_for(resolve(TrainConfig(label_noise=part, seed=3, **images)))

    clean, fifth, half = noisy(0.0), noisy(0.2), noisy(0.5)
    wrong, more = (data.train_labels != clean.train_labels for data in (fifth, half))
    assert (wrong.sum(), more.sum()) == (120, 300)
    np.testing.assert_array_equal(fifth.train_labels[wrong], half.train_labels[wrong])
    # Every class is given and taken away; one in ten is left to chance.
    assert np.bincount(half.train_labels[more], minlength=10).min() > 15
    assert np.bincount(clean.train_labels[more], minlength=10).min() > 15
    for data in (fifth, half):
        assert data.train_labels.dtype == clean.train_labels.dtype
        np.testing.assert_array_equal(data.train_images, clean.train_images)
        np.testing.assert_array_equal(data.test_labels, clean.test_labels)


def test_wrong_labels_are_no_matter_of_the_seed() -> None:
    first, second = (load_for(resolve(TrainConfig(label_noise=0.2, seed=s))) for s in (0, 1))
    np.testing.assert_array_equal(first.train_labels, second.train_labels)
    assert set(first.train_labels) == set(range(10))


def test_something_must_be_left_to_train_on() -> None:
    with pytest.raises(UserError, match=r"^--validation-images must be below the 1437 "):
        hold_out(load("digits"), 1437)
