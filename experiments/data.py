"""Data sets, whole and as unsigned bytes: they are small enough to stay on the device."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from experiments.cifar import ARCHIVES, describe_missing, find_archive, read_cifar
from experiments.config import DatasetName, ResolvedConfig
from experiments.errors import UserError
from experiments.idx import read_idx
from experiments.split import Split, check_labels
from experiments.tfds_source import read_tfds


class Dataset(NamedTuple):
    """Images (n, height, width, channels) and labels, and how they may be augmented."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int32]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int32]
    num_classes: int
    crop_padding: int
    flip: bool


_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def _digits(_data_dir: Path | None) -> Dataset:
    """scikit-learn's 1797 images of 8x8 pixels, a fifth of them for the test."""
    digits = load_digits()
    # The split is part of the data set: the same whatever the seed of the run.
    train_x, test_x, train_y, test_y = train_test_split(
        digits.images[..., None].astype(np.uint8),
        digits.target.astype(np.int32),
        test_size=0.2,
        stratify=digits.target,
        random_state=0,
    )
    # A mirrored 2 is no 2; 1 pixel of 8 is what 4 are of 32.
    return Dataset(train_x, train_y, test_x, test_y, num_classes=10, crop_padding=1, flip=False)


def _fashion_mnist(data_dir: Path | None) -> Dataset:
    directory = data_dir or _DEBIAN_FASHION_MNIST
    files = {
        (split, kind): directory / f"{split}-{kind}-idx{ndim}-ubyte.gz"
        for split in ("train", "t10k")
        for kind, ndim in (("images", 3), ("labels", 1))
    }
    if missing := [file.name for file in files.values() if not file.is_file()]:
        train, test = read_tfds(
            "fashion_mnist",
            data_dir,
            (28, 28, 1),
            f"Fashion-MNIST is not in {directory} ({', '.join(missing)} missing): run "
            "`apt-get install dataset-fashion-mnist`, or name the directory of its four idx .gz "
            "files with --data-dir",
        )
        return Dataset(*train, *test, num_classes=10, crop_padding=4, flip=True)

    def read(split: str) -> Split:
        images = read_idx(files[split, "images"], ndim=3)
        labels = read_idx(files[split, "labels"], ndim=1)
        if images.shape[1:] != (28, 28):
            raise UserError(
                f"{files[split, 'images']} holds images of {images.shape[1:]}, not (28, 28) pixels."
            )
        if len(images) != len(labels):
            raise UserError(
                f"{files[split, 'labels']} holds {len(labels)} labels for {len(images)} images."
            )
        check_labels(str(files[split, "labels"]), labels, num_classes=10)
        return images[..., None], labels.astype(np.int32)

    return Dataset(*read("train"), *read("t10k"), num_classes=10, crop_padding=4, flip=True)


def _cifar(name: DatasetName) -> Callable[[Path | None], Dataset]:
    def read(data_dir: Path | None) -> Dataset:
        archive = find_archive(name, data_dir)
        if data_dir is not None and archive is not None:
            train, test = read_cifar(archive, data_dir)
        else:
            train, test = read_tfds(name, data_dir, (32, 32, 3), describe_missing(name, data_dir))
        classes = ARCHIVES[name][0].num_classes
        return Dataset(*train, *test, num_classes=classes, crop_padding=4, flip=True)

    return read


LOADERS: dict[DatasetName, Callable[[Path | None], Dataset]] = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar("cifar10"),
    "cifar100": _cifar("cifar100"),
}


def load(name: DatasetName, data_dir: Path | None = None) -> Dataset:
    """Load a data set.

    Args:
        name: Its name.
        data_dir: Directory of its files, for the data sets that have any.

    Returns:
        All of it.

    Raises:
        UserError: The files are missing or damaged.
    """
    return LOADERS[name](data_dir)


def load_for(config: ResolvedConfig) -> Dataset:
    """Load what a run is trained and tested on.

    Args:
        config: The run.

    Returns:
        Its data set, reduced if the run is one of fewer images, and with its wrong labels.

    Raises:
        UserError: The files are missing or damaged, or hold too few images.
    """
    data = load(config.dataset, config.data_dir)
    if config.validation_images is None:
        data = first_of_every_class(data, config.train_images, config.test_images)
    else:
        # Of all training images: a run of a few has the same ones with and without a held-out set.
        data = hold_out(data, config.validation_images)
        data = first_of_every_class(data, config.train_images)
    return with_wrong_labels(data, config.label_noise)


def hold_out(data: Dataset, size: int) -> Dataset:
    """Put training images of all classes in the place of the test images.

    Args:
        data: The data set.
        size: Number of training images to take out.

    Returns:
        A data set without the test images, so that they cannot be looked at.

    Raises:
        UserError: Nothing would be left to train on.
    """
    remaining = len(data.train_labels) - size
    if remaining < 1:
        raise UserError(
            f"--validation-images must be below the {len(data.train_labels)} training images, "
            f"not {size}."
        )
    train = np.zeros(len(data.train_labels), bool)
    train[_first_of_every_class("train", data.train_labels, remaining)] = True
    return data._replace(
        train_images=data.train_images[train],
        train_labels=data.train_labels[train],
        test_images=data.train_images[~train],
        test_labels=data.train_labels[~train],
    )


def first_of_every_class(
    data: Dataset, train_images: int | None = None, test_images: int | None = None
) -> Dataset:
    """Reduce a data set to images of all classes in equal numbers, as far as there are enough.

    Args:
        data: The data set.
        train_images: Number of training images to keep, all if None.
        test_images: Number of test images to keep, all if None.

    Returns:
        The reduced data set, its images in their old order. A smaller one is part of a larger one.

    Raises:
        UserError: There are not so many.
    """
    train = _first_of_every_class("train", data.train_labels, train_images)
    test = _first_of_every_class("test", data.test_labels, test_images)
    return data._replace(
        train_images=data.train_images[train],
        train_labels=data.train_labels[train],
        test_images=data.test_images[test],
        test_labels=data.test_labels[test],
    )


def with_wrong_labels(data: Dataset, part: float) -> Dataset:
    """Give training images another class than theirs, each of the others as likely.

    Args:
        data: The data set.
        part: How many of them, in [0, 1).

    Returns:
        The data set with these labels. They do not depend on a run's seed, and those of a smaller
        part are among those of a larger one.
    """
    labels = data.train_labels
    rng = np.random.default_rng(0)
    shifts = rng.integers(1, data.num_classes, len(labels), np.int32)
    right = rng.permutation(len(labels))[round(part * len(labels)) :]
    shifts[right] = 0
    return data._replace(train_labels=(labels + shifts) % data.num_classes)


def _first_of_every_class(
    split: str, labels: NDArray[np.int32], size: int | None
) -> NDArray[np.intp] | slice:
    if size is None:
        return slice(None)
    if size > len(labels):
        raise UserError(
            f"--{split}-images must be at most the {len(labels)} there are, not {size}."
        )
    by_class = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.intp)
    rank[by_class] = np.arange(len(labels)) - np.searchsorted(labels[by_class], labels[by_class])
    return np.sort(np.argsort(rank, kind="stable")[:size])
