"""Mistakes of the user: one line on stderr, exit status 2, nothing written."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import experiments
from experiments.train import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], "--epochs must be at least 1, not 0."),
        (["--rho", "-1"], "--rho must be"),
        (["--batch-size", "5000"], "--batch-size must be at most the 1437 training images"),
        (["--dataset", "fashion_mnist", "--data-dir", "."], "apt-get install"),
        (["--data-dir", "."], "--data-dir is not for digits"),
    ],
)
def test_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: Callable[[Callable[[], None], list[str]], str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in fails(main, arguments)
    assert not any(tmp_path.iterdir())


TRAIN = (sys.executable, "-m", "experiments.train")


def test_a_device_that_is_not_there() -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "nonsense"}
    found = subprocess.run(TRAIN, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert found.stderr.startswith("error: JAX finds no device for JAX_PLATFORMS=nonsense.")


def test_an_output_that_nobody_reads() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    command = [*TRAIN, "--help"]
    with subprocess.Popen(command, stdout=writes, stderr=subprocess.PIPE, text=True) as process:
        os.close(writes)
        _, said = process.communicate()
    assert process.returncode == 141
    assert said == ""


def test_out_that_is_a_file(
    tmp_path: Path, fails: Callable[[Callable[[], None], list[str]], str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        assert "cannot be written" in fails(main, ["--out", str(out)])
    assert file.read_text() == "mine"


def test_unknown_method(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--method", "nonsense"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["train", "analyse", "compare", "speed.__main__", "lambda_max", "benchmark.__main__"],
)
def test_help_has_every_command_on_a_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = importlib.import_module(f"experiments.{name}")
    monkeypatch.setattr(sys, "argv", ["program", "--help"])
    with pytest.raises(SystemExit):
        program.main()
    said = capsys.readouterr().out.splitlines()
    commands = [line for line in said if line.startswith("python -m experiments.")]
    documented = (program.__doc__ or "").count("\npython -m experiments.")
    assert len(commands) == documented >= 2
    assert all(line.count("python -m") == 1 for line in commands)
    assert not any(re.search(r"\S {3,}[^ #]", line) for line in commands)


def test_missing_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        importlib.reload(experiments)
    assert stopped.value.code == 2
    assert "pip install -e '.[experiments]'" in capsys.readouterr().err
