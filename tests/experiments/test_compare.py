"""Runs side by side, from their files alone."""

import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from experiments.common.files import write_json
from experiments.compare import main
from experiments.training.config import ResolvedConfig, TrainConfig
from experiments.training.resolve import resolve
from experiments.training.run_folder import Result, as_json, write_metrics
from experiments.training.step import EpochMetrics
from tests.experiments.conftest import Fails

EPOCHS = [
    EpochMetrics(1, 0.9, 60.0, 0.8, 61.0, 5.0, 80.0, 1.0),
    EpochMetrics(2, 0.5, 80.0, float("nan"), 81.25, None, None, 1.0),
]


def write(config: ResolvedConfig, *, finished: bool, **continued: Any) -> Path:
    """A run's folder as an earlier version left it, without weights."""
    config.out.mkdir(parents=True)
    write_json(config.out / "config.json", config.to_json() | continued)
    write_metrics(config.out, EPOCHS)
    if finished:
        fields = dict.fromkeys(Result._fields, 0) | continued
        write_json(config.out / "result.json", as_json(Result(**fields)))
    return config.out


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    config = resolve(TrainConfig(method="sam", model="mlp", epochs=2, out=tmp_path / "a" / "run"))
    other = replace(config, method="xsam", epochs=3, seed=1, out=tmp_path / "b" / "run")
    more = replace(config, out=tmp_path / "c" / "run")
    return [
        write(config, finished=True),
        write(other, finished=False),
        write(more, finished=True, continued_at=[1]),
    ]


def test_one_line_of_every_run_and_one_of_every_epoch(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, runs), "--out", str(out)])
    main()
    with (out / "compare.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["run"] for line in lines] == [str(run) for run in runs]
    assert [line["method"] for line in lines] == ["sam", "xsam", "sam"]
    assert [line["seed"] for line in lines] == ["0", "1", "0"]
    first, unfinished, continued = (line["epochs"] for line in lines)
    assert first == "2"
    assert unfinished == "2 of 3"
    assert continued not in ("2", "2 of 3"), "nobody takes it for a run of two epochs at once"
    for line in lines:
        assert float(line["test_accuracy"]) == 81.25
        # Of what was not measured, or is not finite, in the last epoch the one before.
        assert (line["test_loss"], line["lambda_max"], line["angle"]) == ("0.8", "5", "80")
    with (out / "compare_epochs.csv").open() as file:
        epochs = list(csv.DictReader(file))
    assert [line["epoch"] for line in epochs] == ["1", "2"] * 3
    assert epochs[1]["lambda_max"] == epochs[1]["test_loss"] == ""
    table = [row for row in (out / "compare.md").read_text().splitlines() if row.startswith("|")]
    assert len(table) == 5
    assert len({row.count("|") for row in table}) == 1
    assert min(matplotlib.image.imread(out / "compare.png").shape[:2]) > 500


def test_what_is_no_run(runs: list[Path], tmp_path: Path, fails: Fails) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert "is no folder of a run" in fails(main, [str(tmp_path), *out])
    assert "different runs" in fails(main, [str(runs[0]), f"{runs[0]}/../run", *out])
    fails(main, out)
    (runs[0] / "metrics.jsonl").write_text("{")
    assert "is damaged" in fails(main, [str(runs[0]), *out])
    assert not (tmp_path / "out").exists()
