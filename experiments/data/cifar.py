"""CIFAR-10 and CIFAR-100 from their original archives, binary or Python version.

An archive is read where it lies and never unpacked, and only if its checksum is the published one.
The Python version is pickled: of that, arrays and plain containers are made and nothing else.
"""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.common.errors import UserError
from experiments.data.dataset import Split, check_labels

_PIXELS = 3 * 32 * 32
# The four archives have 170 million, none of their files has more.
MOST_BYTES = 1 << 28
# Planes of red, green and blue (n, 3072), and labels (n,).
_Rows = tuple[NDArray[np.uint8], NDArray[np.int32]]


def _binary(content: bytes, *, label_bytes: int) -> _Rows:
    """Read the binary version: rows of label bytes, of which the last counts, and pixels."""
    size = label_bytes + _PIXELS
    if not content or len(content) % size:
        raise ValueError(f"holds {len(content)} bytes, not a multiple of {size}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, size)
    return rows[:, label_bytes:], rows[:, label_bytes - 1].astype(np.int32)


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows arrays, and no other function that a pickle could ask for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, which no image needs")
        return super().find_class(module, name)


def _pickled(content: bytes, *, labels: bytes) -> _Rows:
    """Read the Python version: a dictionary of Python 2, with the pixels under ``data``."""
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        pixels, values = batch[b"data"], np.asarray(batch[labels], np.int32)
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # A broken pickle may raise anything.
        raise ValueError(f"cannot be unpickled: {type(error).__name__}") from None
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or not len(values)
        or pixels.shape != (len(values), _PIXELS)
    ):
        raise ValueError(f"does not hold {_PIXELS} bytes for each of its {len(values)} labels")
    return pixels, values


class Archive(NamedTuple):
    """An archive as its authors published it.

    Attributes:
        file: Its name.
        md5: Its checksum, from the data sets' home page.
        train: Files of the training images, in order.
        test: File of the test images.
        parse: Content of a file -> its rows; raises ValueError with what is wrong.
        num_classes: Number of classes.
    """

    file: str
    md5: str
    train: tuple[str, ...]
    test: str
    parse: Callable[[bytes], _Rows]
    num_classes: int


# Of each data set the binary version and the Python version.
ARCHIVES: Mapping[str, tuple[Archive, Archive]] = {
    "cifar10": (
        Archive(
            "cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
            tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
            "cifar-10-batches-bin/test_batch.bin",
            partial(_binary, label_bytes=1),
            num_classes=10,
        ),
        Archive(
            "cifar-10-python.tar.gz",
            "c58f30108f718f92721af3b95e74349a",
            tuple(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)),
            "cifar-10-batches-py/test_batch",
            partial(_pickled, labels=b"labels"),
            num_classes=10,
        ),
    ),
    "cifar100": (
        Archive(
            "cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
            ("cifar-100-binary/train.bin",),
            "cifar-100-binary/test.bin",
            # The coarse label comes first.
            partial(_binary, label_bytes=2),
            num_classes=100,
        ),
        Archive(
            "cifar-100-python.tar.gz",
            "eb9058c3a382ffc7106e4002c42a8d85",
            ("cifar-100-python/train",),
            "cifar-100-python/test",
            partial(_pickled, labels=b"fine_labels"),
            num_classes=100,
        ),
    ),
}


def find_archive(name: str, directory: Path | None) -> Archive | None:
    """Find the archive of a data set, whichever version is there."""
    if directory is None:
        return None
    return next((a for a in ARCHIVES[name] if (directory / a.file).is_file()), None)


def describe_missing(name: str, directory: Path | None) -> str:
    """Say what is missing of a data set, without a full stop."""
    files = " or ".join(archive.file for archive in ARCHIVES[name])
    if directory is not None and not directory.is_dir():
        what = "is a file" if directory.exists() else "is not there"
        return f"{directory} {what}: name the directory of the files of {name} with --data-dir"
    where = "" if directory is None else f" in {directory}"
    return (
        f"{name} is not there{where}: neither {files}, nor what is in it, nor images in "
        "train/CLASS and test/CLASS; download one from the CIFAR home page and name its directory "
        "with --data-dir"
    )


def read_cifar(archive: Archive, directory: Path) -> tuple[Split, Split]:
    """Read an archive.

    Args:
        archive: Which.
        directory: Where it lies.

    Returns:
        Images (n, 32, 32, 3) and labels of the training and of the test set.

    Raises:
        UserError: It is not what its authors published.
    """
    file = directory / archive.file
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise UserError(f"{file} is damaged: it has {size} bytes; download it again.")
    with file.open("rb") as packed:
        found = hashlib.file_digest(packed, "md5").hexdigest()
    if found != archive.md5:
        raise UserError(
            f"{file} is damaged: its MD5 checksum is {found}, not {archive.md5}; download it again."
        )

    def content(tar: tarfile.TarFile, name: str) -> bytes:
        member = tar.extractfile(name)
        if member is None:
            raise UserError(f"{name} in {archive.file} is no file.")
        return member.read()

    try:
        with tarfile.open(file, "r:gz") as tar:
            return split_files(
                archive, lambda name: (f"{name} in {archive.file}", content(tar, name))
            )
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
    except KeyError as error:
        raise UserError(f"{file} lacks a file: {error.args[0]}.") from None


def split_files(archive: Archive, read: Callable[[str], tuple[str, bytes]]) -> tuple[Split, Split]:
    """Put the files of an archive together.

    Args:
        archive: Which.
        read: Name in the archive -> how an error calls the file, and its content.

    Returns:
        Images (n, 32, 32, 3) and labels of the training and of the test set.

    Raises:
        UserError: A file is not of the archive's format.
    """
    parts = [_split(archive, *read(name)) for name in (*archive.train, archive.test)]
    images, labels = zip(*parts[:-1], strict=True)
    return (np.concatenate(images), np.concatenate(labels)), parts[-1]


def _split(archive: Archive, where: str, content: bytes) -> Split:
    try:
        rows, labels = archive.parse(content)
    except ValueError as error:
        raise UserError(f"{where} {error}.") from None
    check_labels(where, labels, archive.num_classes)
    # The planes become channels.
    images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels
