"""CIFAR archives in their true layout, whole and damaged."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from experiments import cifar, data
from experiments.cifar import ARCHIVES, Archive
from experiments.config import DatasetName
from experiments.errors import UserError
from experiments.train import main
from tests.experiments.conftest import Fails


def rows(archive: Archive, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    content = rng.integers(0, 256, (count, archive.label_bytes + 3072), np.uint8)
    content[:, : archive.label_bytes] %= archive.num_classes
    return content


def write(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: DatasetName, files: dict[str, bytes]
) -> None:
    """Pack the files and take their checksum for the published one."""
    archive = ARCHIVES[name]
    with tarfile.open(folder / archive.file, "w:gz") as tar:
        for file, content in files.items():
            member = tarfile.TarInfo(file)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    md5 = hashlib.md5((folder / archive.file).read_bytes()).hexdigest()
    monkeypatch.setitem(cifar.ARCHIVES, name, archive._replace(md5=md5))  # type: ignore[arg-type]


def contents(archive: Archive) -> dict[str, np.ndarray]:
    return {name: rows(archive, 3, i) for i, name in enumerate((*archive.train, archive.test))}


@pytest.mark.parametrize("name", ARCHIVES)
def test_images_and_labels(
    name: DatasetName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = ARCHIVES[name]
    files = contents(archive)
    write(monkeypatch, tmp_path, name, {k: v.tobytes() for k, v in files.items()})
    found = data.load(name, tmp_path)
    train = np.concatenate([files[file] for file in archive.train])
    assert found.train_images.shape == (len(train), 32, 32, 3)
    assert found.test_images.shape == (3, 32, 32, 3)
    assert found.num_classes == archive.num_classes
    np.testing.assert_array_equal(found.train_labels, train[:, archive.label_bytes - 1])
    # Pixel (y, x) of a plane of 32 x 32, planes one after the other.
    image, y, x, channel = 2, 5, 17, 1
    assert (
        found.train_images[image, y, x, channel]
        == train[image, archive.label_bytes + 1024 * channel + 32 * y + x]
    )


def test_what_is_wrong_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    archive = ARCHIVES["cifar10"]
    whole = {k: v.tobytes() for k, v in contents(archive).items()}
    with pytest.raises(UserError, match=r"is not there in .*--data-dir"):
        data.load("cifar10", tmp_path)
    with pytest.raises(UserError, match=r"is not there: .*--data-dir"):
        data.load("cifar10")
    bad_label = rows(archive, 3, 0)
    bad_label[1, 0] = 10
    for files, message in (
        (whole | {archive.test: whole[archive.test][:-1]}, "9218 bytes, not a multiple of 3073"),
        (whole | {archive.test: b""}, "holds 0 bytes"),
        (whole | {archive.test: bad_label.tobytes()}, "holds the label 10, above 9"),
        ({archive.test: whole[archive.test]}, "lacks a file"),
    ):
        write(monkeypatch, tmp_path, "cifar10", files)
        with pytest.raises(UserError, match=message):
            data.load("cifar10", tmp_path)

    # Damaged on the way, and with a checksum that says so.
    file = tmp_path / archive.file
    file.write_bytes(file.read_bytes()[:-30])
    out = tmp_path / "run"
    message = fails(main, ["--dataset", "cifar10", "--data-dir", str(tmp_path), "--out", str(out)])
    assert "MD5 checksum" in message
    assert not out.exists()


def test_a_truncated_archive_with_the_right_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = ARCHIVES["cifar10"]
    write(monkeypatch, tmp_path, "cifar10", {k: v.tobytes() for k, v in contents(archive).items()})
    file = tmp_path / archive.file
    file.write_bytes(file.read_bytes()[:2000])
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", archive._replace(md5=md5))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="cannot be read"):
        data.load("cifar10", tmp_path)
