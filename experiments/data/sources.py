"""Reads data sets, whole and as unsigned bytes, so that they fit on the device."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from experiments.common.errors import UserError
from experiments.common.options import AT_LEAST_ONE, check
from experiments.data.cifar import ARCHIVES, describe_missing, find_archive, read_cifar
from experiments.data.cifar_folders import read_class_folders, read_unpacked
from experiments.data.dataset import Dataset, DatasetName, Split, by_content, check_labels
from experiments.data.folder import fingerprint_of, read_folder
from experiments.data.idx import read_idx
from experiments.data.tfds import read_tfds

# (directory, size of the images) -> the data set
Loader = Callable[[Path | None, int | None], Dataset]
_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def _digits(_data_dir: Path | None, _image_size: int | None) -> Dataset:
    """Read scikit-learn's 1797 images of 8x8 pixels, a fifth of them for the test."""
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


def _fashion_mnist(data_dir: Path | None, _image_size: int | None) -> Dataset:
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


def _cifar(name: DatasetName) -> Loader:
    def read(data_dir: Path | None, _image_size: int | None) -> Dataset:
        train, test = map(_by_pixels, _read_cifar(name, data_dir))
        classes = ARCHIVES[name][0].num_classes
        return Dataset(*train, *test, num_classes=classes, crop_padding=4, flip=True)

    return read


def _read_cifar(name: DatasetName, data_dir: Path | None) -> tuple[Split, Split]:
    archive = find_archive(name, data_dir)
    if data_dir is not None:
        if archive is not None:
            return read_cifar(archive, data_dir)
        splits = read_unpacked(name, data_dir) or read_class_folders(name, data_dir)
        if splits is not None:
            return splits
    return read_tfds(name, data_dir, (32, 32, 3), describe_missing(name, data_dir))


def _by_pixels(split: Split) -> Split:
    """The same images in one order, wherever they come from: a run's numbers depend on it."""
    images, labels = split
    contents = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images]
    order = by_content(contents, labels)
    return images[order], labels[order]


def _folder(data_dir: Path | None, image_size: int | None) -> Dataset:
    return read_folder(_directory(data_dir), image_size)


LOADERS: dict[DatasetName, Loader] = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar("cifar10"),
    "cifar100": _cifar("cifar100"),
    "folder": _folder,
}


def load(name: DatasetName, data_dir: Path | None = None, image_size: int | None = None) -> Dataset:
    """Load a data set.

    Args:
        name: Its name.
        data_dir: Directory of its files, for the data sets that have any.
        image_size: Height and width that the images of `folder` are given.

    Returns:
        All of it.

    Raises:
        UserError: The files are missing or damaged.
    """
    if image_size is not None:
        if name != "folder":
            raise UserError(f"--image-size is for folder, not for {name}.")
        check("image_size", image_size, AT_LEAST_ONE)
    return LOADERS[name](data_dir, image_size)


def fingerprint(name: DatasetName, data_dir: Path | None) -> str | None:
    """What tells the images of `folder` from others; None for a data set that its name tells.

    Raises:
        UserError: They cannot be read.
    """
    return fingerprint_of(_directory(data_dir)) if name == "folder" else None


def file_name(name: DatasetName, data_dir: Path | None, images: str | None) -> str:
    """What a data set is called in the names of files.

    Args:
        name: Its name.
        data_dir: Directory of its files.
        images: Its `fingerprint`.
    """
    return name if images is None else f"{name}-{_directory(data_dir).resolve().name}-{images[:8]}"


def _directory(data_dir: Path | None) -> Path:
    if data_dir is None:
        raise UserError(
            "--dataset folder needs --data-dir: the directory of train/CLASS and test/CLASS, or of "
            "CLASS, with the images of each class."
        )
    return data_dir
