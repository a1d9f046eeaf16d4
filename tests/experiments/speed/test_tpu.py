"""What a TPU's compiler says of a step, where libtpu is installed."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from experiments.speed.steps import BASELINE, CHOSEN_BETWEEN, REFRESH
from experiments.speed.tpu import main
from tests.experiments.conftest import Fails
from tests.meshes import needs_libtpu


def test_without_libtpu(monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "needs libtpu: pip install -e '.[experiments,tpu]'." in fails(main, ["--model", "mlp"])


@needs_libtpu
def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    options = ["--model", "mlp", "--out", str(tmp_path)]
    message = fails(main, [*options, "--topology", "v5e:1x3"])
    assert "--topology must be one that libtpu has, such as v5e:2x2, not v5e:1x3." in message
    steps = ["sam", "xsam, oja", REFRESH, CHOSEN_BETWEEN]
    monkeypatch.setattr(sys, "argv", ["program", *options, "--steps", *steps])
    main()
    (file,) = tmp_path.iterdir()
    assert file.name == "v5e-mlp-256.json"
    found = json.loads(file.read_text())["steps"]
    assert [*found] == [BASELINE, *steps]
    operations = {name: step["gigaflops"] for name, step in found.items()}
    assert operations["sam"] == pytest.approx(operations[BASELINE], rel=0.05)
    assert operations["xsam, oja"] < 1.1 * operations["sam"]
    assert operations[REFRESH] > 1.5 * operations["sam"]
    assert operations[CHOSEN_BETWEEN] < 1.1 * operations["sam"]
