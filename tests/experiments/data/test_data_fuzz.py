"""Damaged data files and checkpoints: an error, no large allocation, and nothing is executed."""

import gzip
import hashlib
import json
import pickle
import random
import struct
import sys
import tarfile
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.common.errors import UserError
from experiments.data import cifar
from experiments.data import sources as data
from experiments.data.cifar import ARCHIVES
from experiments.data.idx import read_idx
from experiments.training import checkpoint
from tests.experiments.data.test_datasets import idx, write_fashion_mnist
from tests.experiments.training.test_checkpoint import snapshot

some = settings(deadline=None, max_examples=300, database=None)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
GOOD = gzip.compress(idx(IMAGES), mtime=0)
HEADER = 16
numbers = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2**26, 2**31, 2**32 - 1]))

_watched: list[list[str]] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _watched and event in ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec"):
        _watched[-1].append(f"{event} {args}")


sys.addaudithook(_audit)


@contextmanager
def nothing_executed() -> Iterator[None]:
    """Assert that nothing unpickles a function or starts a process, by Python's audit hook."""
    seen: list[str] = []
    _watched.append(seen)
    try:
        yield
    finally:
        _watched.pop()
    assert not seen


def refused_or_right(content: bytes, *, damaged: bool = False) -> None:
    """Assert that reading gives images or one sentence, and takes little memory."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "x.gz")
        file.write_bytes(content)
        found, said = None, ""
        tracemalloc.start()
        try:
            with nothing_executed():
                found = read_idx(file, 3)
        except UserError as error:
            said = str(error)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    if found is None:
        assert str(file) in said
        assert "\n" not in said
    elif damaged:
        # Bits that mean nothing: gzip's checksum lets nothing else through.
        np.testing.assert_array_equal(found, IMAGES)
    assert peak < 4 << 20


@some
@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    refused_or_right(content)


@some
@given(st.integers(0, len(GOOD) - 1))
def test_truncated(size: int) -> None:
    refused_or_right(GOOD[:size], damaged=True)


@some
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4))
def test_bytes_changed_in_the_stream(changes: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD)
    for place, value in changes:
        content[place] = value
    refused_or_right(bytes(content), damaged=True)


@some
@given(st.binary(min_size=4, max_size=4), st.tuples(numbers, numbers, numbers))
def test_any_header(magic: bytes, shape: tuple[int, int, int]) -> None:
    """Right gzip around a wrong magic, wrong sizes, huge sizes."""
    body = idx(IMAGES)[HEADER:]
    for start in (magic, b"\x00\x00\x08\x03"):
        refused_or_right(gzip.compress(start + struct.pack(">3I", *shape) + body))


def test_a_small_file_of_many_bytes() -> None:
    """A gigabyte of zeros in a megabyte: no more of it is read than the header promises."""
    packed = gzip.compress(bytes(1 << 24), 9) * 64
    header = lambda *shape: gzip.compress(b"\x00\x00\x08\x03" + struct.pack(">3I", *shape))
    refused_or_right(header(5, 4, 3) + packed)
    refused_or_right(header(1 << 20, 32, 32) + packed)
    refused_or_right(header(1 << 16, 32, 32))


@given(st.data())
@settings(deadline=None, max_examples=50, database=None)
def test_fashion_mnist_with_a_damaged_file(sample: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_fashion_mnist(Path(folder))
        good = data.load("fashion_mnist", Path(folder))
        file = sample.draw(st.sampled_from(sorted(Path(folder).iterdir())))
        content = bytearray(file.read_bytes())
        # Not gzip's first ten bytes, some of which mean nothing.
        place = sample.draw(st.integers(10, len(content) - 1))
        content[place] ^= sample.draw(st.integers(1, 255))
        file.write_bytes(content)
        try:
            with nothing_executed():
                found = data.load("fashion_mnist", Path(folder))
        except UserError:
            return
        # A bit that means nothing.
        for array, right in zip(found[:4], good[:4], strict=True):
            np.testing.assert_array_equal(array, right)


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise AssertionError('executed')",)


@pytest.mark.parametrize("archive", [a for both in ARCHIVES.values() for a in both])
def test_no_archive_is_opened_before_its_checksum_is_right(
    archive: cifar.Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(tarfile, "open", opened)
    monkeypatch.setattr(cifar, "_Unpickler", opened)
    file, rng = tmp_path / archive.file, random.Random(0)
    for content in (b"", pickle.dumps(Malicious()), *(rng.randbytes(500) for _ in range(50))):
        file.write_bytes(content)
        with pytest.raises(UserError, match="MD5 checksum"), nothing_executed():
            cifar.read_cifar(archive, tmp_path)
    # Huge, and sparse: not even the checksum is computed.
    with file.open("wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(UserError, match="it has 1099511627776 bytes"):
        cifar.read_cifar(archive, tmp_path)


# Orbax's threads complain beside the exception.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    """Neither a whole one nor one with a pickle in the place of any file and right checksums."""
    checkpoint.save(tmp_path, "run", snapshot(3))
    place = tmp_path / "checkpoints" / "00000003"
    with nothing_executed():
        assert int(checkpoint.restore(tmp_path, "run", snapshot(0)).state.step) == 3
    # All but tensorstore's own files, which no Python code reads.
    texts = [p for p in place.rglob("*") if p.is_file() and "ocdbt" not in p.name]
    texts = [p for p in texts if p.parent.name != "d" and p.name != "SHA256SUMS"]
    assert place / "run.json" in texts
    assert len(texts) > 2
    for file in texts:
        good = file.read_bytes()
        file.write_bytes(pickle.dumps(Malicious()))
        sums = json.loads((place / "SHA256SUMS").read_text())
        name = file.relative_to(place).as_posix()
        old, sums[name] = sums[name], hashlib.sha256(file.read_bytes()).hexdigest()
        (place / "SHA256SUMS").write_text(json.dumps(sums))
        with nothing_executed():
            try:
                found = checkpoint.restore(tmp_path, "run", snapshot(0))
            except UserError:
                pass
            else:
                assert int(found.state.step) == 3  # a file that orbax does not read
        file.write_bytes(good)
        (place / "SHA256SUMS").write_text(json.dumps(sums | {name: old}))
    with pytest.raises(AssertionError, match="assert not"), nothing_executed():  # it does look
        pickle.loads(pickle.dumps(np.ones(1)))
