"""Whole runs on the digits: the files, the accuracy, the same numbers again."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import chex
import matplotlib.image
import numpy as np
import pytest

from experiments.common.errors import UserError
from experiments.train import main
from experiments.training.config import TrainConfig
from experiments.training.program import _program
from experiments.training.progress import Report
from experiments.training.resolve import resolve
from experiments.training.run import train
from experiments.training.run_folder import Result, as_json, open_run, write_metrics
from experiments.training.step import EpochMetrics


def contents(out: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_xsam_learns_digits_and_writes_its_files(tmp_path: Path) -> None:
    out = tmp_path / "a" / "run"
    config = TrainConfig(
        batch_size=64, epochs=5, curvature_every=3, curvature_samples=64, num_matvecs=6, out=out
    )
    reports: list[Report] = []
    result = train(config, progress=reports.append).result
    assert {file.name for file in out.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "result.json",
        "curves.png",
        "inputs.json",
        "checkpoints",
    }
    assert json.loads((out / "config.json").read_text()) == resolve(config).to_json()
    assert json.loads((out / "result.json").read_text()) == result._asdict()
    assert result.test_accuracy > 85
    assert result.steps == 115
    assert result.versions.keys() >= {"python", "jax", "jaxlib", "optax", "flax", "xsam_jax"}

    lines = metrics(out)
    assert all(tuple(line) == EpochMetrics._fields for line in lines)
    assert [line["epoch"] for line in lines] == list(range(1, 6))
    measured = [line["epoch"] for line in lines if line["lambda_max"] is not None]
    assert measured == [3, 5]
    assert all(0 <= line["angle"] <= 90 for line in lines if line["angle"] is not None)
    assert lines[-1]["lambda_max"] == result.lambda_max
    assert lines[-1]["train_loss"] < lines[0]["train_loss"] / 2
    for line in lines:
        assert len(line["step_losses"]) == 23
        assert np.mean(line["step_losses"]) == pytest.approx(line["train_loss"], rel=1e-5)
    height, width, _ = matplotlib.image.imread(out / "curves.png").shape
    assert min(height, width) > 500

    assert [r.step for r in reports] == sorted(r.step for r in reports)
    assert {r.epoch for r in reports} == set(range(1, 6))
    assert any(r.step % 23 for r in reports), "the bar moves within an epoch"
    assert reports[-1].step == reports[-1].steps == 115
    assert reports[-1].eigenvalue is not None
    assert reports[-1].angle is not None


def test_same_seed_same_numbers_and_finished_runs_are_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cli"
    options = ["--method=sgd", "--model=mlp", "--epochs=2", "--curvature-every=0"]
    options += ["--batch-size=100", "--seed=3"]
    monkeypatch.setattr(sys, "argv", ["train", *options, "--devices=1", "--out", str(out)])
    main()
    printed = capsys.readouterr().out
    assert str(out) in printed.replace("\n", "")
    assert f"{json.loads((out / 'result.json').read_text())['test_accuracy']:.2f} %" in printed

    before = contents(out)
    main()
    assert "holds this run, finished: remove it" in capsys.readouterr().out
    assert contents(out) == before

    config = TrainConfig(
        method="sgd", model="mlp", epochs=2, curvature_every=0, batch_size=100, seed=3
    )
    again = train(TrainConfig(**{**vars(config), "out": tmp_path / "api"})).result
    assert again.lambda_max is None

    def numbers(directory: Path) -> list[dict[str, Any]]:
        return [{k: v for k, v in line.items() if k != "seconds"} for line in metrics(directory)]

    assert numbers(out) == numbers(tmp_path / "api")

    with pytest.raises(UserError, match="finished run with other values of seed, learning_rate"):
        train(TrainConfig(**{**vars(config), "out": out, "seed": 4, "learning_rate": 0.2}))
    assert contents(out) == before


def test_a_folder_is_for_one_run_at_a_time(tmp_path: Path) -> None:
    config = TrainConfig(method="sgd", epochs=1, curvature_every=0, out=tmp_path / "run")
    with open_run(resolve(config)) as folder:
        folder.write_metrics([EpochMetrics(1, 0.5, 80.0, 0.6, 81.0, None, None, 1.0)])
        before = {file.name: file.read_bytes() for file in config.out.iterdir()}
        with pytest.raises(UserError, match="is in use by another run"):
            train(config)
        assert {file.name: file.read_bytes() for file in config.out.iterdir()} == before
    with open_run(resolve(config)):
        pass


def test_a_run_without_files_has_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bare = train(SMALL, keep=False)
    assert not any(tmp_path.iterdir())
    kept = train(replace(SMALL, out=tmp_path / "run"), draw=False)
    assert bare.result._replace(seconds=0) == kept.result._replace(seconds=0)
    assert [e._replace(seconds=0) for e in bare.epochs] == [
        e._replace(seconds=0) for e in kept.epochs
    ]
    assert [line | {"seconds": 0} for line in metrics(tmp_path / "run")] == [
        as_json(e._replace(seconds=0)) for e in kept.epochs
    ]
    chex.assert_trees_all_equal(bare.state, kept.state)


def test_a_strange_config_is_left_alone(tmp_path: Path) -> None:
    for content in ('{"hidden_size": 768}', "not json", "[1]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"config\.json of another program"):
            train(TrainConfig(out=tmp_path))
        assert [file.read_text() for file in tmp_path.iterdir()] == [content]


def test_diverged_numbers_are_null(tmp_path: Path) -> None:
    nan = float("nan")
    losses = [0.1, nan]
    infinite = EpochMetrics(1, nan, 10.0, float("inf"), 10.0, None, None, 1.0, [2], losses)
    write_metrics(tmp_path, [infinite])
    (line,) = metrics(tmp_path)
    assert (line["train_loss"], line["test_loss"]) == (None, None)
    assert (line["bad_steps"], line["step_losses"]) == ([2], [0.1, None])


def test_result_fields() -> None:
    assert set(Result._fields) == {
        "test_accuracy",
        "test_loss",
        "train_loss",
        "lambda_max",
        "trace",
        "trace_error",
        "seconds",
        "steps",
        "method",
        "model",
        "dataset",
        "seed",
        "versions",
        "continued_at",
    }


SMALL = TrainConfig(
    model="mlp",
    batch_size=32,
    epochs=2,
    train_images=64,
    curvature_samples=64,
    num_matvecs=4,
    trace_probes=20,
)


def test_runs_share_a_program_and_no_numbers(tmp_path: Path) -> None:
    def run(name: str, **changes: Any) -> Result:
        result = train(replace(SMALL, out=tmp_path / name, **changes), draw=False).result
        assert not (tmp_path / name / "curves.png").exists()
        return result._replace(seconds=0)

    first = run("first")
    others = [run("rate", learning_rate=0.01), run("rho", rho=1.0)]
    others += [run("seed", seed=1), run("the largest seed", seed=2**32 - 1)]
    assert first.trace is not None
    assert first.trace_error is not None
    assert first.lambda_max is not None
    assert first.trace + 4 * first.trace_error > first.lambda_max / 2
    assert 0 < first.trace_error < abs(first.trace)
    assert run("again") == first
    assert len({result.test_loss for result in (first, *others)}) == 5
    _program.cache_clear()
    assert run("compiled anew") == first


def test_progress_has_the_measured_curvature_of_a_method_that_knows_none(tmp_path: Path) -> None:
    reports: list[Report] = []
    config = replace(SMALL, method="xsam_random", curvature_every=1, out=tmp_path)
    result = train(config, progress=reports.append, draw=False).result
    assert reports[0].eigenvalue is None
    assert reports[-1].eigenvalue == pytest.approx(result.lambda_max)
