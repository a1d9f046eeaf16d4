"""CIFAR-10 and CIFAR-100 in folders: their archives unpacked, or an image a file.

Nothing there has a checksum, so that it is counted, and the means of its channels are compared.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.common.errors import UserError
from experiments.data.cifar import ARCHIVES, MOST_BYTES, split_files
from experiments.data.class_folders import FORMATS, find_images
from experiments.data.dataset import Split
from experiments.data.images import read_headers, read_pixels


class Facts(NamedTuple):
    """What is known of a data set.

    Attributes:
        title: Its name.
        train: Training images of each class.
        test: Test images of each class.
        means: Of the red, green and blue of its training images, in [0, 1].
        classes: Its classes; their numbers are their places, here and in the archives.
    """

    title: str
    train: int
    test: int
    means: tuple[float, float, float]
    classes: tuple[str, ...]


_CLASSES_OF_10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CLASSES_OF_100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
FACTS: Mapping[str, Facts] = {
    "cifar10": Facts(
        "CIFAR-10", 5000, 1000, (0.4914, 0.4822, 0.4465), tuple(_CLASSES_OF_10.split())
    ),
    "cifar100": Facts(
        "CIFAR-100", 500, 100, (0.5071, 0.4865, 0.4409), tuple(_CLASSES_OF_100.split())
    ),
}
_TOLERANCE = 1e-3


def read_unpacked(name: str, directory: Path) -> tuple[Split, Split] | None:
    """Read an archive that was unpacked, as torchvision and Keras leave it.

    Args:
        name: Name of the data set.
        directory: The folder that the archive holds, or the one that this lies in.

    Returns:
        Images (n, 32, 32, 3) and labels of the training and of the test set; None if there is no
        such folder.

    Raises:
        UserError: It is damaged, or it is another data set.
    """
    for archive in ARCHIVES[name]:
        inner = archive.test.split("/")[0]
        # Keras unpacks into a folder of another name, or of the same.
        outer = (directory, directory / f"{inner}-target", directory / inner)
        for folder in (directory, *(place / inner for place in outer)):
            if any((folder / Path(file).name).is_file() for file in (*archive.train, archive.test)):
                train, test = split_files(archive, _reader(folder))
                _check_counts(FACTS[name], folder, train[1], test[1])
                _check_means(FACTS[name], folder, train[0])
                return train, test
    return None


def _reader(folder: Path) -> Callable[[str], tuple[str, bytes]]:
    def read(name: str) -> tuple[str, bytes]:
        file = folder / Path(name).name
        try:
            size = file.stat().st_size
            if size > MOST_BYTES:
                raise UserError(f"{file} is damaged: it has {size} bytes.")
            return str(file), file.read_bytes()
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}.") from None

    return read


def read_class_folders(name: str, directory: Path) -> tuple[Split, Split] | None:
    """Read images from train/CLASS and test/CLASS.

    Args:
        name: Name of the data set.
        directory: What these lie in, or the folder of a folder NAME in which they lie.

    Returns:
        As `read_unpacked`.

    Raises:
        UserError: An image cannot be read, or it is another data set.
    """
    found = [x for x in (directory / name, directory) if (x / "train").is_dir()]
    if not found:
        return None
    folder, facts = found[0], FACTS[name]
    classes, train, test = find_images(folder)
    if classes != facts.classes:
        difference = sorted({*classes} ^ {*facts.classes})[0]
        verb = "lacks" if difference in facts.classes else "holds"
        raise UserError(f"{folder} is not {facts.title}: it {verb} the class {difference}.")
    if test is None:
        raise UserError(f"{folder} holds no test images of {facts.title}: {folder / 'test'}.")
    files = [file.path for file in (*train, *test)]
    if jpeg := [file for file in files if FORMATS[file.suffix.lower()] == "JPEG"]:
        raise UserError(f"{jpeg[0]} is not of {facts.title}: a JPEG does not keep all its pixels.")
    for file, header in zip(files, read_headers(files), strict=True):
        if (header.width, header.height) != (32, 32):
            raise UserError(
                f"{file} is not of {facts.title}: it has {header.width}x{header.height} pixels, "
                "not 32x32."
            )
    labels = np.array([file.label for file in (*train, *test)], np.int32)
    train_labels, test_labels = labels[: len(train)], labels[len(train) :]
    _check_counts(facts, folder, train_labels, test_labels)
    images = read_pixels(files, (32, 32, 3))
    train_images, test_images = images[: len(train)], images[len(train) :]
    _check_means(facts, folder, train_images)
    return (train_images, train_labels), (test_images, test_labels)


def _check_counts(
    facts: Facts, where: Path, train: NDArray[np.int32], test: NDArray[np.int32]
) -> None:
    for split, labels, expected in (("training", train, facts.train), ("test", test, facts.test)):
        counts = np.bincount(labels, minlength=len(facts.classes))
        for name, count in zip(facts.classes, counts.tolist(), strict=True):
            if count != expected:
                raise UserError(
                    f"{where} is not {facts.title}: it holds {count:,} {split} images of the class "
                    f"{name}, not {expected:,}."
                )


def _check_means(facts: Facts, where: Path, images: NDArray[np.uint8]) -> None:
    # First over the images, which is the faster order.
    means = images.mean(axis=0).mean(axis=(0, 1)) / 255
    if not np.allclose(means, facts.means, rtol=0, atol=_TOLERANCE):
        found, expected = (" ".join(f"{x:.4f}" for x in values) for values in (means, facts.means))
        raise UserError(
            f"{where} is not {facts.title}: the means of its training images' red, green and blue "
            f"are {found}, not {expected}."
        )
