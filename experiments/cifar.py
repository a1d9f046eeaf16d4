"""CIFAR-10 and CIFAR-100 from their original binary archives.

The binary version holds bytes and nothing else, so that nothing has to be unpickled; the archive is
read where it lies and never unpacked.
"""

import hashlib
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.errors import UserError


class Archive(NamedTuple):
    """An archive as its authors published it.

    Attributes:
        file: Its name.
        md5: Its checksum, from the data sets' home page.
        train: Files of the training images, in order.
        test: File of the test images.
        label_bytes: Bytes before the pixels of an image; the last of them is the label.
        num_classes: Number of classes.
    """

    file: str
    md5: str
    train: tuple[str, ...]
    test: str
    label_bytes: int
    num_classes: int


ARCHIVES: Mapping[str, Archive] = {
    "cifar10": Archive(
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
        "cifar-10-batches-bin/test_batch.bin",
        label_bytes=1,
        num_classes=10,
    ),
    "cifar100": Archive(
        "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        ("cifar-100-binary/train.bin",),
        "cifar-100-binary/test.bin",
        # The coarse label comes first.
        label_bytes=2,
        num_classes=100,
    ),
}

Split = tuple[NDArray[np.uint8], NDArray[np.int32]]


def describe_missing(archive: Archive, directory: Path | None) -> str:
    """What to say of an archive that is not there, without a full stop."""
    where = "" if directory is None else f" in {directory}"
    return (
        f"{archive.file} is not there{where}: download it from the CIFAR home page and name "
        "its directory with --data-dir"
    )


def read_cifar(archive: Archive, directory: Path) -> tuple[Split, Split]:
    """Read an archive.

    Args:
        archive: Which.
        directory: Where it lies.

    Returns:
        Images (n, 32, 32, 3) and labels of the training and of the test set.

    Raises:
        UserError: It is not there, or not what its authors published.
    """
    file = directory / archive.file
    if not file.is_file():
        raise UserError(f"{describe_missing(archive, directory)}.")
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "md5").hexdigest()
    if found != archive.md5:
        raise UserError(
            f"{file} is damaged: its MD5 checksum is {found}, not {archive.md5}; download it again."
        )
    try:
        with tarfile.open(file, "r:gz") as tar:
            parts = [_split(archive, tar, name) for name in (*archive.train, archive.test)]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
    except KeyError as error:
        raise UserError(f"{file} lacks a file: {error.args[0]}.") from None
    images, labels = zip(*parts[:-1], strict=True)
    return (np.concatenate(images), np.concatenate(labels)), parts[-1]


def _split(archive: Archive, tar: tarfile.TarFile, name: str) -> Split:
    member = tar.extractfile(name)
    if member is None:
        raise UserError(f"{name} in {archive.file} is no file.")
    content = np.frombuffer(member.read(), np.uint8)
    size = archive.label_bytes + 3 * 32 * 32
    if not len(content) or len(content) % size:
        raise UserError(
            f"{name} in {archive.file} holds {len(content)} bytes, not a multiple of {size}."
        )
    rows = content.reshape(-1, size)
    labels = rows[:, archive.label_bytes - 1].astype(np.int32)
    if labels.max() >= archive.num_classes:
        raise UserError(
            f"{name} in {archive.file} holds the label {labels.max()}, above "
            f"{archive.num_classes - 1}."
        )
    # Planes of red, green and blue become channels.
    images = rows[:, archive.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels
