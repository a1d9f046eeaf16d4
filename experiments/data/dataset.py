"""What a data set is, and how a run takes a part of it."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.common.errors import UserError

DatasetName = Literal["digits", "fashion_mnist", "cifar10", "cifar100", "folder"]
# Images and labels.
Split = tuple[NDArray[np.uint8], NDArray[np.int32]]


class Dataset(NamedTuple):
    """Images (n, height, width, channels) and labels, and how they may be augmented.

    Names of the classes, in the order of the labels, has `folder` alone.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int32]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int32]
    num_classes: int
    crop_padding: int
    flip: bool
    classes: tuple[str, ...] = ()


def check_labels(where: str, labels: NDArray[np.integer], num_classes: int) -> None:
    """Refuse labels that name no class.

    Args:
        where: How the error begins.
        labels: At least one.
        num_classes: Number of classes.

    Raises:
        UserError: A label is not in [0, num_classes).
    """
    low, high = labels.min(), labels.max()
    if low < 0 or high >= num_classes:
        bad = low if low < 0 else high
        raise UserError(f"{where} holds the label {bad}, outside [0, {num_classes}).")


def by_content(contents: Iterable[bytes], labels: NDArray[np.int32]) -> NDArray[np.intp]:
    """An order that has nothing to do with how images are named or where they come from.

    Args:
        contents: Of each image a hash of 8 bytes.
        labels: Their labels.

    Returns:
        Indices that sort them, classes mixed.
    """
    keys = np.frombuffer(b"".join(contents), ">u8")
    return np.lexsort((labels, keys))


def hold_out(data: Dataset, size: int) -> Dataset:
    """Put held-out training images of all classes in the place of the test images.

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
    """Keep some images of a data set, as far as there are enough in equal numbers of all classes.

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
    """Give some training images a wrong class, each of the others as likely.

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
