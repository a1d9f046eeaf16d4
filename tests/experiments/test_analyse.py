"""The curvature of trained networks against what was measured while they were trained."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from experiments.analyse import main
from experiments.training.config import TrainConfig
from experiments.training.run import train
from tests.experiments.conftest import Fails

CONFIG = TrainConfig(
    model="mlp",
    method="sam",
    batch_size=32,
    epochs=1,
    train_images=96,
    test_images=50,
    curvature_samples=64,
    num_matvecs=12,
    trace_probes=20,
)


def table(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_numbers_are_those_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (
        train(replace(CONFIG, seed=seed, out=tmp_path / str(seed)), draw=False) for seed in (0, 1)
    )
    out = tmp_path / "out"
    options = ["--k", "3", "--num-matvecs", "12", "--trace-probes", "20", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["analyse", *(str(tmp_path / s) for s in "01"), *options])
    main()
    found: list[dict[str, Any]] = json.loads((out / "analysis.json").read_text())["runs"]
    for run, line, row in zip((first, second), found, table(out / "analysis.csv"), strict=True):
        assert line["lambda_max"] == pytest.approx(run.result.lambda_max, rel=1e-4)
        assert line["trace"] == pytest.approx(run.result.trace, rel=1e-4)
        assert line["trace_error"] == pytest.approx(run.result.trace_error, rel=1e-3)
        assert line["angle"] == pytest.approx(run.epochs[-1].angle, abs=0.1)
        assert line["test_accuracy"] == run.result.test_accuracy
        assert line["images"] == 64
        assert line["eigenvalues"] == sorted(line["eigenvalues"], reverse=True)
        assert float(row["lambda_max"]) == pytest.approx(line["lambda_max"], rel=1e-5)
    assert [line["run"] for line in found] == ["0", "1"]
    assert found[0]["lambda_max"] != found[1]["lambda_max"]

    eigenvalues = table(out / "analysis_eigenvalues.csv")
    assert [(e["run"], e["index"]) for e in eigenvalues] == [(r, i) for r in "01" for i in "123"]
    density = [d for d in table(out / "analysis_density.csv") if d["run"] == "1"]
    grid, heights = (np.array([float(d[k]) for d in density]) for k in ("eigenvalue", "density"))
    assert np.trapezoid(heights, grid) == pytest.approx(1, abs=0.05)
    rows = [r for r in (out / "analysis.md").read_text().splitlines() if r.startswith("|")]
    assert len(rows) == 4
    assert min(matplotlib.image.imread(out / "analysis.png").shape[:2]) > 400


def test_wrong_options(tmp_path: Path, fails: Fails) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert "is no folder of a run" in fails(main, [str(tmp_path), *out])
    few = [str(tmp_path), "--k", "9", "--num-matvecs", "8", *out]
    assert "--k must be at most --num-matvecs 8, not 9" in fails(main, few)
    assert "different runs" in fails(main, [str(tmp_path), str(tmp_path), *out])
    assert not any(tmp_path.iterdir())
