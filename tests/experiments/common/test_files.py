"""Files that cannot be written, are damaged, or are read by a terminal of few letters."""

import errno
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import lambda_max
from experiments.common.errors import UserError, exit_on_user_error
from experiments.common.files import make_folder, read_json, write_atomically, write_json
from experiments.figures import runs
from experiments.speed import __main__ as speed
from experiments.tracking import __main__ as tracking
from experiments.training.config import TrainConfig
from experiments.workers import store
from tests.experiments.conftest import Fails


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_replaced_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file.json"
    write_json(file, {"a": 1})
    assert read_json(file) == {"a": 1}
    half = Path.write_bytes

    def write_half(path: Path, content: bytes) -> None:
        half(path, content[:3])
        full_disk()

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(UserError, match=r"file.json cannot be written: No space left on device"):
        write_json(file, {"a": 2})
    assert read_json(file) == {"a": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_a_benchmark_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.workers.store.os.fsync", full_disk)
    with pytest.raises(UserError, match=r"results.jsonl cannot be written: No space left"):
        store.append(tmp_path, {"key": "a"})


def test_a_benchmark_whose_file_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / store.FILE).mkdir()
    with (
        pytest.raises(UserError, match=r"results.jsonl cannot be written: Is a directory"),
        store.locked(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (lambda_max.main, ["--model", "mlp", "--dataset", "digits", "--images", "128"]),
        (speed.main, ["--model", "mlp", "--batch-size", "4"]),
        (tracking.main, ["--settings", "mlp"]),
    ],
    ids=["lambda_max", "speed", "tracking"],
)
def test_a_folder_that_cannot_be_is_refused_before_the_measurement(
    main: Callable[[], None],
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: Fails,
) -> None:
    first = "lambda_max.build_network", "speed.__main__.compile_step", "tracking.__main__.watch"
    for name in first:
        monkeypatch.setattr(f"experiments.{name}", lambda *_: pytest.fail("measured"))
    (tmp_path / "file").touch()
    message = fails(main, [*arguments, "--out", str(tmp_path / "file")])
    assert "--out" in message
    assert "cannot be written" in message


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "b"]
    assert not any((tmp_path / "a" / "b").iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"run.json is damaged: remove it"):
        read_json(tmp_path / "run.json")


def test_arrays_that_are_damaged(tmp_path: Path) -> None:
    file = tmp_path / "arrays.npz"
    content = runs.arrays(a=np.arange(3), b=np.ones(2))
    write_atomically(file, content)
    np.testing.assert_array_equal(runs.read_arrays(file, ["b", "a"])[1], np.arange(3))
    for damage in (b"", content[:20], content[:-20], content[:60] + b"?" + content[61:]):
        file.write_bytes(damage)
        with pytest.raises(UserError, match="is damaged"):
            runs.read_arrays(file, ["a", "b"])
    write_atomically(file, content)
    with pytest.raises(UserError, match="is damaged"):
        runs.read_arrays(file, ["c"])


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    config = TrainConfig(
        model="mlp", epochs=1, batch_size=20, train_images=60, test_images=50, curvature_every=0
    )
    run = runs.run_once(config, tmp_path)
    for name in ("result.json", "metrics.jsonl"):
        before = (run.out / name).read_text()
        (run.out / name).write_text("{")
        with pytest.raises(UserError, match=f"{run.out.name} is damaged: remove it"):
            runs.run_once(config, tmp_path)
        (run.out / name).write_text(before)
    assert runs.run_once(config, tmp_path) == run


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_a_terminal_has_no_letter_for(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(said, encoding=encoding))
    with exit_on_user_error():
        print("λ 3", flush=True)
    assert said.getvalue().split() == [b"?", b"3"]
