"""CIFAR archives in their true layout, whole and damaged."""

import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.common.errors import UserError
from experiments.data import cifar
from experiments.data import sources as data
from experiments.data.cifar import ARCHIVES, Archive
from experiments.data.dataset import DatasetName
from experiments.train import main
from tests.experiments.conftest import Fails

VERSIONS = [(name, archive) for name, archives in ARCHIVES.items() for archive in archives]


def rows(archive: Archive, count: int, seed: int) -> np.ndarray:
    """Make rows of the binary version."""
    label_bytes = 2 if archive.num_classes == 100 else 1
    rng = np.random.default_rng(seed)
    content = rng.integers(0, 256, (count, label_bytes + 3072), np.uint8)
    content[:, :label_bytes] %= archive.num_classes
    return content


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes bytes as Python 2 wrote its strings."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def save_string(self, obj: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(obj)) + obj)

    dispatch[bytes] = save_string


def pickled(content: Any) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    # The name of the module before NumPy 2.
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def encoded(archive: Archive, content: np.ndarray) -> bytes:
    """Encode a file of an archive in its version's layout."""
    if archive.file.endswith("binary.tar.gz"):
        return content.tobytes()
    pixels = np.ascontiguousarray(content[:, -3072:])
    batch: dict[bytes, Any] = {b"data": pixels, b"filenames": [b"x.png"] * len(content)}
    labels = content[:, -3073].tolist()
    if archive.num_classes == 100:
        batch |= {b"fine_labels": labels, b"coarse_labels": content[:, 0].tolist()}
    else:
        batch |= {b"labels": labels, b"batch_label": b"training batch 1 of 5"}
    return pickled(batch)


def publish(monkeypatch: pytest.MonkeyPatch, name: str, archive: Archive, file: Path) -> None:
    """Make the loader take a file's checksum for the published one."""
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    archives = tuple(
        a._replace(md5=md5) if a.file == archive.file else a for a in cifar.ARCHIVES[name]
    )
    monkeypatch.setitem(cifar.ARCHIVES, name, archives)  # type: ignore[arg-type]


def write(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    name: str,
    archive: Archive,
    files: dict[str, bytes],
) -> None:
    """Pack the files and publish the archive."""
    with tarfile.open(folder / archive.file, "w:gz") as tar:
        for file, content in files.items():
            member = tarfile.TarInfo(file)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    publish(monkeypatch, name, archive, folder / archive.file)


def contents(archive: Archive) -> dict[str, np.ndarray]:
    return {name: rows(archive, 3, i) for i, name in enumerate((*archive.train, archive.test))}


def whole(archive: Archive) -> dict[str, bytes]:
    return {k: encoded(archive, v) for k, v in contents(archive).items()}


@pytest.mark.parametrize(("name", "archive"), VERSIONS)
def test_images_and_labels(
    name: DatasetName, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(monkeypatch, tmp_path, name, archive, whole(archive))
    found = data.load(name, tmp_path)
    files = contents(archive)
    train = np.concatenate([files[file] for file in archive.train])
    assert found.train_images.shape == (len(train), 32, 32, 3)
    assert found.test_images.shape == (3, 32, 32, 3)
    assert found.num_classes == archive.num_classes
    for images, labels, content in (
        (found.train_images, found.train_labels, train),
        (found.test_images, found.test_labels, files[archive.test]),
    ):
        # In some order. Planes of 32 x 32 pixels, one channel after the other.
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        both = np.column_stack([labels.astype(np.uint8), planes]), content[:, -3073:]
        np.testing.assert_array_equal(*(np.unique(rows, axis=0) for rows in both))


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even of an archive with the published checksum."""
    archive = ARCHIVES["cifar10"][1]
    target = tmp_path / "executed"

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (target,)

    good = whole(archive)
    for bad, message in (
        (pickle.dumps(Malicious(), protocol=2), "asks for .*, which no image needs"),
        (good[archive.test][:-20], "cannot be unpickled|truncated|ran out"),
        (pickled([1, 2]), "cannot be unpickled"),
        (pickled({b"data": np.zeros((2, 3072)), b"labels": [1, 2]}), "does not hold 3072 bytes"),
        (pickled({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}), "of its 1 labels"),
        (pickled({b"data": np.zeros((1, 3072), np.uint8), b"labels": [-1]}), "the label -1"),
    ):
        write(monkeypatch, tmp_path, "cifar10", archive, good | {archive.train[0]: bad})
        with pytest.raises(UserError, match=message):
            data.load("cifar10", tmp_path)
    assert not target.exists()


def test_what_is_wrong_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    archive = ARCHIVES["cifar10"][0]
    good = whole(archive)
    with pytest.raises(UserError, match=r"is not there in .*--data-dir"):
        data.load("cifar10", tmp_path)
    with pytest.raises(UserError, match=r"is not there: .*--data-dir"):
        data.load("cifar10")
    bad_label = rows(archive, 3, 0)
    bad_label[1, 0] = 10
    for files, message in (
        (good | {archive.test: good[archive.test][:-1]}, "9218 bytes, not a multiple of 3073"),
        (good | {archive.test: b""}, "holds 0 bytes"),
        (good | {archive.test: bad_label.tobytes()}, r"holds the label 10, outside \[0, 10\)"),
        ({archive.test: good[archive.test]}, "lacks a file"),
    ):
        write(monkeypatch, tmp_path, "cifar10", archive, files)
        with pytest.raises(UserError, match=message):
            data.load("cifar10", tmp_path)

    # Damaged on the way, and with a checksum that says so.
    file = tmp_path / archive.file
    file.write_bytes(file.read_bytes()[:-30])
    out = tmp_path / "run"
    message = fails(main, ["--dataset", "cifar10", "--data-dir", str(tmp_path), "--out", str(out)])
    assert "MD5 checksum" in message
    assert not out.exists()


@pytest.mark.parametrize("archive", ARCHIVES["cifar10"])
def test_a_truncated_archive_with_the_right_checksum(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(monkeypatch, tmp_path, "cifar10", archive, whole(archive))
    file = tmp_path / archive.file
    file.write_bytes(file.read_bytes()[:2000])
    publish(monkeypatch, "cifar10", archive, file)
    with pytest.raises(UserError, match="cannot be read"):
        data.load("cifar10", tmp_path)
