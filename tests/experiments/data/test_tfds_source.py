"""The genuine builders of tensorflow-datasets, on genuine and on small original files, offline."""

import functools
import hashlib
import io
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from experiments.common.errors import UserError
from experiments.data import sources as data
from experiments.data import tfds as tfds_source
from experiments.data.cifar import ARCHIVES
from experiments.data.dataset import DatasetName
from experiments.train import main
from tests.experiments.conftest import Fails
from tests.experiments.data.test_cifar import rows

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# When the originals were compressed: Debian's copies lack name and time in their gzip headers.
MODIFIED = {"train": 1504176606, "t10k": 1504176627}
FEW = 2000  # of 70,000 images, whose preparation takes more than a minute


@pytest.fixture
def tfds(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = pytest.importorskip(
        "tensorflow_datasets", reason="tensorflow-datasets is not installed: the extra tfds"
    )
    pytest.importorskip("tensorflow", reason="tensorflow is not installed: the extra tfds")
    # TFDS takes originals that lie in downloads/manual for downloaded, after their checksums.
    monkeypatch.setattr(tfds_source, "reachable", lambda url: True)
    return module


def manual(directory: Path) -> Path:
    folder = directory / "downloads" / "manual"
    folder.mkdir(parents=True)
    return folder


def bytes_of(images: NDArray[np.uint8], labels: NDArray[np.int32]) -> list[bytes]:
    """Collect images with their labels, whatever their order."""
    return sorted(x.tobytes() + bytes([y]) for x, y in zip(images, labels, strict=True))


def test_the_genuine_fashion_mnist(
    tmp_path: Path, tfds: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the whole files, whose checksums TFDS knows, it prepares the first images only."""
    if not DEBIAN.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    folder = manual(tmp_path)
    for file in DEBIAN.glob("*.gz"):
        content, time = file.read_bytes(), MODIFIED[file.name.split("-")[0]]
        name = file.name.removesuffix(".gz").encode() + b"\0"
        header = content[:3] + b"\x08" + time.to_bytes(4, "little") + content[8:10] + name
        (folder / file.name).write_bytes(header + content[10:])
    few = functools.partial(tfds.download.DownloadConfig, max_examples_per_split=FEW)
    monkeypatch.setattr(tfds.download, "DownloadConfig", few)

    prepared, original = data.load("fashion_mnist", tmp_path), data.load("fashion_mnist", DEBIAN)
    assert prepared.train_images.shape == (FEW, 28, 28, 1)
    for kind in ("train", "test"):
        found, expected = (
            bytes_of(getattr(x, f"{kind}_images")[:FEW], getattr(x, f"{kind}_labels")[:FEW])
            for x in (prepared, original)
        )
        assert found == expected
    assert prepared[4:] == original[4:]


def small_cifar(
    tfds: ModuleType, monkeypatch: pytest.MonkeyPatch, directory: Path, name: DatasetName
) -> None:
    """Make an archive in CIFAR's layout, and give TFDS its checksum."""
    archive, python_version = ARCHIVES[name]
    labels = {10: "batches.meta.txt", 100: "fine_label_names.txt"}
    files = {
        f"{archive.test.split('/')[0]}/{labels[archive.num_classes]}": "\n".join(
            f"class {i}" for i in range(archive.num_classes)
        ).encode()
    }
    if archive.num_classes == 100:
        coarse = "\n".join(f"superclass {i}" for i in range(20))
        files["cifar-100-binary/coarse_label_names.txt"] = coarse.encode()
    for i, file in enumerate((*archive.train, archive.test)):
        content = rows(archive, 4, seed=i)
        content[:, :-3073] %= 20  # coarse labels
        files[file] = content.tobytes()
    path = manual(directory) / archive.file
    with tarfile.open(path, "w:gz") as tar:
        for file, content in files.items():
            member = tarfile.TarInfo(file)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    packed = path.read_bytes()
    builder = tfds.builder_cls(name)
    (url,) = builder.url_infos
    info = tfds.core.download.checksums.UrlInfo(
        size=tfds.core.utils.Size(len(packed)),
        checksum=hashlib.sha256(packed).hexdigest(),
        filename=archive.file,
    )
    monkeypatch.setattr(builder, "url_infos", {url: info})
    published = archive._replace(md5=hashlib.md5(packed).hexdigest())
    monkeypatch.setitem(ARCHIVES, name, (published, python_version))  # type: ignore[arg-type]


def assert_same(found: data.Dataset, expected: data.Dataset) -> None:
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", ARCHIVES)
def test_cifar_is_the_same_as_from_its_archive(
    name: DatasetName, tmp_path: Path, tfds: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_cifar(tfds, monkeypatch, tmp_path, name)
    found = data.load(name, tmp_path)
    assert_same(found, data.load(name, tmp_path / "downloads" / "manual"))
    monkeypatch.setattr(tfds_source, "reachable", lambda url: False)
    assert_same(data.load(name, tmp_path), found)


def test_the_format_that_tfds_prepares_by_default(
    tmp_path: Path, tfds: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_cifar(tfds, monkeypatch, tmp_path, "cifar10")
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder = tfds.builder("cifar10", data_dir=tmp_path)
    builder.download_and_prepare(file_format="tfrecord", download_config=config)
    # Where TFDS looks by itself.
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert_same(data.load("cifar10"), data.load("cifar10", tmp_path / "downloads" / "manual"))


def test_a_wrong_checksum_leaves_nothing(
    tmp_path: Path, tfds: ModuleType, monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    small_cifar(tfds, monkeypatch, tmp_path, "cifar10")
    archive = tmp_path / "downloads" / "manual" / ARCHIVES["cifar10"][0].file
    archive.write_bytes(archive.read_bytes()[:-1] + b"!")
    out = tmp_path / "run"
    message = fails(main, ["--dataset", "cifar10", "--data-dir", str(tmp_path), "--out", str(out)])
    assert "cannot prepare cifar10" in message
    assert "NonMatchingChecksumError" in message
    assert not out.exists()
    assert {x for x in tmp_path.rglob("*") if x.is_file()} == {archive}


def test_a_truncated_prepared_file(
    tmp_path: Path, tfds: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_cifar(tfds, monkeypatch, tmp_path, "cifar10")
    data.load("cifar10", tmp_path)
    (file,) = tmp_path.glob("cifar10/*/*-train.*")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot read cifar10") as error:
        data.load("cifar10", tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([((32, 32, 3), 3), ((32, 31, 3), 3)], r"images of \(32, 31, 3\), not \(32, 32, 3\)"),
        ([((32, 32, 3), 3), ((32, 32, 3), 10)], r"the label 10, outside \[0, 10\)"),
        ([((32, 32, 3), 3), ((32, 32, 3), -1)], r"the label -1, outside \[0, 10\)"),
        ([((32, 32, 3), 3)], "holds 1 images, not 2"),
    ],
)
def test_wrong_examples(
    rows: list[tuple[tuple[int, int, int], int]],
    words: str,
    tmp_path: Path,
    tfds: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Split:
        num_examples = 2

    def examples(builder: Any, split: str) -> list[dict[str, Any]]:
        return [{"image": np.zeros(shape, np.uint8), "label": label} for shape, label in rows]

    builder = tfds.builder_cls("cifar10")
    monkeypatch.setattr(builder, "is_prepared", lambda self: True)
    monkeypatch.setattr(builder, "as_data_source", examples)
    monkeypatch.setattr(tfds.core.DatasetInfo, "splits", {"train": Split, "test": Split})
    with pytest.raises(UserError, match=words):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100"])
def test_without_a_network(
    name: DatasetName, tmp_path: Path, tfds: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfds_source, "reachable", lambda url: False)
    with pytest.raises(UserError, match="its server does not answer"):
        data.load(name, tmp_path)
    assert not any(tmp_path.iterdir())


def test_without_tfds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--data-dir, or install .*\[tfds\]"):
        data.load("cifar10", tmp_path)


def test_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real one

    def refuse(request: urllib.request.Request, timeout: float) -> None:
        raise urllib.error.URLError("no such host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert not tfds_source.reachable("http://localhost/x")
    monkeypatch.setattr(urllib.request, "urlopen", lambda request, timeout: io.BytesIO())
    assert tfds_source.reachable("http://localhost/x")


def test_nothing_else_is_printed(tmp_path: Path, tfds: ModuleType) -> None:
    # What tensorflow's C++ prints passes by Python's stderr.
    program = (
        "from experiments.data import tfds; tfds.reachable = lambda url: False;"
        "from experiments.train import main; main()"
    )
    arguments = ["--dataset", "cifar10", "--data-dir", str(tmp_path), "--out", str(tmp_path / "x")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())
