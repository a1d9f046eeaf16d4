"""CIFAR as others leave it: the same whatever it is read from, and what is not CIFAR is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from experiments.common.errors import UserError
from experiments.data import cifar_folders
from experiments.data.cifar import ARCHIVES, Archive
from experiments.data.cifar_folders import FACTS
from experiments.data.dataset import Dataset, DatasetName
from experiments.data.sources import load
from tests.experiments.data.test_cifar import encoded, write

# Two training images a class and one test image, as rows of the binary version.
Rows = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture(params=["cifar10", "cifar100"])
def name(request: pytest.FixtureRequest) -> DatasetName:
    found: DatasetName = request.param
    return found


@pytest.fixture
def rows(name: DatasetName, monkeypatch: pytest.MonkeyPatch) -> Rows:
    rng, facts = np.random.default_rng(0), FACTS[name]
    label_bytes = 2 if name == "cifar100" else 1

    def split(count: int) -> NDArray[np.uint8]:
        labels = rng.permutation(np.repeat(np.arange(len(facts.classes)), count))
        content = rng.integers(0, 256, (len(labels), label_bytes + 3072), np.uint8)
        content[:, label_bytes - 1] = labels
        return content

    train, test = split(2), split(1)
    means = train[:, -3072:].reshape(-1, 3, 1024).mean((0, 2)) / 255
    small = facts._replace(train=2, test=1, means=tuple(means.tolist()))
    monkeypatch.setitem(cifar_folders.FACTS, name, small)
    return train, test


def files_of(archive: Archive, rows: Rows) -> dict[str, bytes]:
    train = np.array_split(rows[0], len(archive.train))
    parts = zip((*archive.train, archive.test), (*train, rows[1]), strict=True)
    return {file: encoded(archive, content) for file, content in parts}


def unpack(archive: Archive, rows: Rows, folder: Path) -> None:
    folder.mkdir(parents=True)
    for file, content in files_of(archive, rows).items():
        (folder / Path(file).name).write_bytes(content)


def write_images(name: DatasetName, rows: Rows, folder: Path) -> None:
    for split, content in zip(("train", "test"), rows, strict=True):
        for i, row in enumerate(content):
            place = folder / split / FACTS[name].classes[row[-3073]] / f"{i:04d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(row[-3072:].reshape(3, 32, 32).transpose(1, 2, 0)).save(place)


def assert_same(found: Dataset, expected: Dataset) -> None:
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_same_from_everywhere(
    name: DatasetName, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    write(monkeypatch, packed, name, ARCHIVES[name][0], files_of(ARCHIVES[name][0], rows))
    expected = load(name, packed)
    assert sorted(expected.train_labels) == sorted(rows[0][:, -3073])
    image, label = expected.test_images[3], expected.test_labels[3]
    (row,) = rows[1][rows[1][:, -3073] == label]
    np.testing.assert_array_equal(image.transpose(2, 0, 1).ravel(), row[-3072:])

    for archive in ARCHIVES[name]:
        inner = archive.test.split("/")[0]
        # As tar leaves it, and Keras 2 and 3.
        for folder in (inner, f"{inner}-target/{inner}", f"{inner}/{inner}"):
            place = tmp_path / "unpacked" / folder
            unpack(archive, rows, place)
            assert_same(load(name, place), expected)
            assert_same(load(name, tmp_path / "unpacked"), expected)
            shutil.rmtree(tmp_path / "unpacked")

    write_images(name, rows, tmp_path / "images" / name)
    assert_same(load(name, tmp_path / "images"), expected)
    assert_same(load(name, tmp_path / "images" / name), expected)


@pytest.mark.parametrize("name", ["cifar10"], indirect=True)
def test_unpacked_and_damaged(name: DatasetName, rows: Rows, tmp_path: Path) -> None:
    for i, archive in enumerate(ARCHIVES[name]):
        folder = tmp_path / str(i)
        unpack(archive, rows, folder)
        test = folder / Path(archive.test).name
        good = test.read_bytes()
        test.write_bytes(good[:-20])
        with pytest.raises(UserError, match=f"^{test} "):
            load(name, folder)
        with test.open("wb") as sparse:
            sparse.truncate(1 << 40)
        with pytest.raises(UserError, match="damaged: it has 1099511627776 bytes"):
            load(name, folder)
        test.unlink()
        with pytest.raises(UserError, match=f"^{test} cannot be read"):
            load(name, folder)
        unpack(archive, (rows[0][:-1], rows[1]), folder / "x")
        with pytest.raises(UserError, match=r"is not CIFAR-10: .* 1 training images of .* not 2\."):
            load(name, folder / "x")


def other(change: Callable[[NDArray[np.uint8]], object]) -> Callable[[Path], None]:
    """Changes all training images."""

    def apply(folder: Path) -> None:
        for file in folder.glob("train/*/*.png"):
            pixels = np.array(Image.open(file))
            change(pixels)
            Image.fromarray(pixels).save(file)

    return apply


def brighten(pixels: NDArray[np.uint8]) -> None:
    np.maximum(pixels, 50, out=pixels)


@pytest.mark.parametrize("name", ["cifar10"], indirect=True)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda x: shutil.rmtree(x / "test"), "holds no test images"),
        (lambda x: shutil.rmtree(x / "train" / "cat"), "a class of which .*train has no images"),
        (
            lambda x: [shutil.rmtree(x / part / "cat") for part in ("train", "test")],
            "is not CIFAR-10: it lacks the class cat",
        ),
        (lambda x: (x / "train/cat").rename(x / "train/kitten"), "a class of which"),
        (lambda x: shutil.rmtree(x / "test" / "cat"), "0 test images of the class cat, not 1"),
        (
            lambda x: next((x / "train/dog").iterdir()).unlink(),
            "1 training images of the class dog, not 2",
        ),
        (
            lambda x: next((x / "train/dog").iterdir()).rename(x / "train/cat/x.png"),
            "3 training images of the class cat, not 2",
        ),
        (other(brighten), r"the means of .* are 0\.\d+ 0\.\d+ 0\.\d+, not 0\.\d+ 0"),
    ],
    ids=["no test", "test only", "9 classes", "name", "test", "one less", "moved", "means"],
)
def test_what_is_not_cifar(
    name: DatasetName, rows: Rows, tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    write_images(name, rows, tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        load(name, tmp_path)
    assert "\n" not in str(error.value)


def test_channels_and_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = FACTS["cifar10"]._replace(train=1, test=1, means=(0.2, 0.4, 0.6))
    monkeypatch.setitem(cifar_folders.FACTS, "cifar10", facts)

    def fill(shape: tuple[int, ...], color: tuple[int, ...]) -> None:
        pixels = np.broadcast_to(np.array(color, np.uint8), shape).squeeze()
        for split in ("train", "test"):
            for name in facts.classes:
                (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / split / name / "0.png")

    fill((32, 32, 3), (51, 102, 153))
    assert load("cifar10", tmp_path).train_images.shape == (10, 32, 32, 3)
    fill((32, 32, 3), (153, 102, 51))
    with pytest.raises(UserError, match=r"are 0\.6000 0\.4000 0\.2000, not 0\.2000 0\.4000 0\.6"):
        load("cifar10", tmp_path)
    fill((32, 32, 1), (51,))
    with pytest.raises(UserError, match=r"are 0\.2000 0\.2000 0\.2000, not"):
        load("cifar10", tmp_path)
    fill((16, 16, 3), (51, 102, 153))
    with pytest.raises(UserError, match=r"0\.png is not of CIFAR-10: it has 16x16 pixels, not 32x"):
        load("cifar10", tmp_path)
    (tmp_path / "train/cat/0.png").rename(tmp_path / "train/cat/0.jpg")
    with pytest.raises(UserError, match=r"0\.jpg is not of CIFAR-10: a JPEG does not keep"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("facts", FACTS.values(), ids=FACTS)
def test_numbers_of_the_classes(facts: cifar_folders.Facts) -> None:
    """They are those of alphabetical order, by which class folders are numbered."""
    assert list(facts.classes) == sorted(set(facts.classes))
    assert facts.train * len(facts.classes) == 50_000
    assert facts.test * len(facts.classes) == 10_000
