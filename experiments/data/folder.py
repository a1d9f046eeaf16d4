"""Anyone's own images in class folders: the data set `folder`."""

import hashlib
import itertools
import warnings
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.common.errors import UserError
from experiments.common.many import for_all
from experiments.data.class_folders import ClassFolders, ImageFile, find_images
from experiments.data.dataset import Dataset, by_content
from experiments.data.images import common_shape, read_headers, read_pixels

_MOST_BYTES = 1 << 30
# The part of each class that is held out where there is no test folder.
_TEST_PART = 0.2
_NAMED = 10  # classes of a description


class _Image(NamedTuple):
    """A file, the number of its class, and a hash of what it holds."""

    path: Path
    label: int
    content: bytes


class _Stamp(NamedTuple):
    """What a file was when it was read: a file of another stamp is read again."""

    path: Path
    size: int
    modified: int


def read_folder(directory: Path, image_size: int | None = None) -> Dataset:
    """Read images in class folders.

    Args:
        directory: See `find_images`. Without a folder of test images a fifth of each class is held
            out for the test, always the same images, and copies of one file on the same side.
        image_size: Height and width that they are given; None if they all have one size.

    Returns:
        The data set, in an order that the names of the files have no part in. A warning says where
        one file is in two classes, or is trained and tested on.

    Raises:
        UserError: See `find_images`, `read_headers` and `common_shape`.
    """
    found = find_images(directory)
    files = [file.path for file in (*found.train, *(found.test or ()))]
    headers = read_headers(files)
    if image_size is not None:
        headers = [h._replace(height=image_size, width=image_size) for h in headers]
    shape = common_shape(files, headers)
    train, test = _splits(found)
    _warn_of_copies(train, test)
    images = read_pixels([file.path for file in (*train, *test)], shape)
    labels = np.array([file.label for file in (*train, *test)], np.int32)
    return Dataset(
        images[: len(train)],
        labels[: len(train)],
        images[len(train) :],
        labels[len(train) :],
        num_classes=len(found.classes),
        # 4 pixels of 32, 1 of 8, as the other data sets have.
        crop_padding=max(1, round(min(shape[:2]) / 8)),
        flip=True,
        classes=found.classes,
    )


def describe(data: Dataset) -> str:
    """Say which classes were found, in the order of their labels, and how many images."""
    names = data.classes
    some = ", ".join(names if len(names) <= _NAMED else (*names[:_NAMED], "..."))
    return (
        f"{len(names)} classes ({some}), {len(data.train_labels):,} training and "
        f"{len(data.test_labels):,} test images"
    )


def fingerprint_of(directory: Path) -> str:
    """A hash of all that the numbers of a run depend on: images, classes, what is for the test.

    Args:
        directory: See `find_images`.

    Returns:
        32 hexadecimal digits. They do not depend on where the files lie, or on their names.

    Raises:
        UserError: See `find_images`, or a file cannot be read.
    """
    found = find_images(directory)
    hashed = hashlib.sha256()
    for files in (found.train, found.test or ()):
        contents = zip(_contents(files), files, strict=True)
        rows = sorted(b"%d %s\n" % (file.label, content) for content, file in contents)
        hashed.update(b"".join([b"%d images\n" % len(rows), *rows]))
    return hashed.hexdigest()[:32]


def _splits(found: ClassFolders) -> tuple[list[_Image], list[_Image]]:
    """Training and test images in the order of their contents."""
    train = _ordered(found.train)
    if found.test is not None:
        return train, _ordered(found.test)
    labels = np.array([image.label for image in train])
    held_out = np.zeros(len(train), bool)
    for label, name in enumerate(found.classes):
        (places,) = np.nonzero(labels == label)
        # Between two files that are not the same; copies stand side by side.
        pairs = enumerate(itertools.pairwise(places), 1)
        cuts = [cut for cut, (x, y) in pairs if train[x].content != train[y].content]
        if not cuts:
            copies = f" ({len(places)} copies)" if len(places) > 1 else ""
            raise UserError(
                f"{train[places[0]].path} is the only image of the class {name}{copies}: without a "
                "folder of test images a class needs two, one of them to test on."
            )
        wanted = max(1, round(_TEST_PART * len(places)))
        held_out[places[: min(cuts, key=lambda cut: abs(cut - wanted))]] = True
    rest = [image for image, out in zip(train, held_out, strict=True) if not out]
    return rest, [image for image, out in zip(train, held_out, strict=True) if out]


def _warn_of_copies(train: list[_Image], test: list[_Image]) -> None:
    """Warn of equal files that make a result better than it is, or that contradict each other."""
    labels: dict[bytes, int] = {}
    for image in (*train, *test):
        if labels.setdefault(image.content, image.label) != image.label:
            warnings.warn(f"{image.path} is in another class too.", stacklevel=3)
    trained_on = {image.content for image in train}
    seen = [image.path for image in test if image.content in trained_on]
    if seen:
        warnings.warn(
            f"{len(seen)} of the {len(test)} test images are training images too, as {seen[0]}: "
            "the test accuracy says less.",
            stacklevel=3,
        )


def _ordered(files: tuple[ImageFile, ...]) -> list[_Image]:
    images = [_Image(*file, content) for file, content in zip(files, _contents(files), strict=True)]
    labels: NDArray[np.int32] = np.array([image.label for image in images], np.int32)
    return [images[i] for i in by_content((image.content[:8] for image in images), labels)]


def _contents(files: tuple[ImageFile, ...]) -> tuple[bytes, ...]:
    """A hash of each file."""
    try:
        stats = [file.path.stat() for file in files]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from None
    for file, stat in zip(files, stats, strict=True):
        if stat.st_size > _MOST_BYTES:
            raise UserError(f"{file.path} has {stat.st_size:,} bytes, too many for an image.")
    return _hashes(
        tuple(
            _Stamp(file.path, stat.st_size, stat.st_mtime_ns)
            for file, stat in zip(files, stats, strict=True)
        )
    )


# Training and test images of a folder or two: a run's options and its data ask for the same.
@lru_cache(maxsize=4)
def _hashes(stamps: tuple[_Stamp, ...]) -> tuple[bytes, ...]:
    def content(stamp: _Stamp) -> bytes:
        try:
            with stamp.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise UserError(f"{stamp.path} cannot be read: {error.strerror}.") from None

    return tuple(for_all("hashing images", content, stamps))
