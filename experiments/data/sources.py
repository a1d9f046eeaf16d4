"""Where data sets are read from, whole and as unsigned bytes: they fit on the device."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from experiments.common.errors import UserError
from experiments.data.cifar import ARCHIVES, describe_missing, find_archive, read_cifar
from experiments.data.dataset import Dataset, DatasetName, Split, check_labels
from experiments.data.idx import read_idx
from experiments.data.tfds import read_tfds

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
