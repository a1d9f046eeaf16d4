"""Timing the published code beside ours: what is said of what is missing, and the means."""

import importlib.util
import sys
from pathlib import Path

import pytest

from experiments.common.errors import UserError
from experiments.speed.published import _FILES, load, main, table
from experiments.speed.steps import BASELINE, BETWEEN, ONE, QUARTER, REFRESH
from tests.experiments.conftest import Fails


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="it is there")
def test_without_pytorch(fails: Fails) -> None:
    assert "needs PyTorch: pip install -e '.[published]'" in fails(main, ["--code", "."])


def test_folder_without_the_code(tmp_path: Path) -> None:
    (tmp_path / "sam.py").write_text("")
    with pytest.raises(UserError, match=f"--code {tmp_path} has no utils.py"):
        load(tmp_path)


def test_files_are_imported_from_the_folder_and_nowhere_else(tmp_path: Path) -> None:
    for name in _FILES:
        (tmp_path / f"{name}.py").write_text(f"NAME = {name!r}")
    assert [module.NAME for module in load(tmp_path).values()] == [*_FILES]
    assert not {*_FILES} & sys.modules.keys()


def test_schedules_are_means_over_their_steps() -> None:
    theirs = {"SAM": 2.0, "between": 2.0, "refresh": 12.0}
    taken = {f"published code, {name}": [value, value, 99.0] for name, value in theirs.items()}
    ours = {
        BASELINE: 1.0,
        "sam": 1.0,
        BETWEEN: 1.0,
        REFRESH: 7.0,
        ONE: 2.0,
        QUARTER: 4.0,
        "xsam, oja": 1.5,
    }
    taken |= {name: [value] for name, value in {**ours, "xsam, subspace": 1.25}.items()}
    lines = table(taken).splitlines()
    assert "| published code, X-SAM, p=5 q=5 | 4.00 | 2.00 |" in lines
    assert "| xsam, p=5 q=5 | 2.20 | 1.10 |" in lines
    assert "| xsam, p=3 q=5 | 3.00 | 1.50 |" in lines
    assert "| xsam, p=5 q=1 | 1.20 | 0.60 |" in lines
    assert "| xsam, p=5 q=5 on 1/4 of the batch | 1.60 | 0.80 |" in lines
    assert "| xsam, oja | 1.50 | 0.75 |" in lines
