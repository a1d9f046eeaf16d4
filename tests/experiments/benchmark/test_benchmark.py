"""The benchmark: equal tuning, resuming, failures, and a report that says what it knows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmark.__main__ import (
    main,
    missing,
    run_benchmark,
)
from experiments.benchmark.estimate import Cost, estimate, measure
from experiments.benchmark.protocol import (
    cells,
    final_runs,
    tuning_runs,
)
from experiments.common.errors import UserError
from experiments.workers import store
from experiments.workers.store import CURVES, Line
from tests.experiments.benchmark.tiny import SAM, SGD, TINY, finished, line
from tests.experiments.conftest import Fails


@pytest.mark.parametrize("stage", ["tuning", "final"])
def test_a_folder_with_other_runs_of_a_method_is_refused(stage: str, tmp_path: Path) -> None:
    trials = [finished(run, 90) for run in tuning_runs(TINY, SAM)]
    runs = tuning_runs(TINY, SAM) if stage == "tuning" else final_runs(TINY, SAM, trials)
    protocol = replace(TINY, methods=("sam",), seeds=(0, 1, 2))
    same = [finished(run, 90) for run in runs]
    assert len(missing(protocol, stage, [*trials, *same], tmp_path)) == (stage == "final")
    strange = finished(runs[0]._replace(config=replace(runs[0].config, rho=0.3)), 90)
    with pytest.raises(UserError, match=f"{stage} runs of sam, mlp on digits, with other .*folder"):
        missing(protocol, stage, [*trials, strange], tmp_path)
    other = finished(runs[0]._replace(config=replace(runs[0].config, seed=8)), 90)
    if stage == "tuning":
        with pytest.raises(UserError, match="or tuning seeds than this benchmark's"):
            missing(protocol, stage, [*trials, other], tmp_path)


@pytest.mark.slow
def test_benchmark_resumes_and_reports(tmp_path: Path) -> None:
    protocol = replace(TINY, methods=("sgd", "sam"))
    assert run_benchmark(protocol, tmp_path, jobs=2) == []
    file = tmp_path / store.FILE
    lines = store.read(tmp_path)
    assert len(lines) == 2 * 2 + 2 * 2
    assert {item["stage"] for item in lines} == {"tuning", "final"}
    chosen = [item for item in lines if item["stage"] == "final"]
    for item in chosen:
        assert len(item["epochs"]["test_accuracy"]) == 2
        assert item["result"]["trace"] is not None

    text = (tmp_path / "report.md").read_text()
    assert "| sgd |" in text
    assert "± " in text
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert 'src="digits' not in page

    # Nothing is run twice, and what a kill left half-written is run again.
    content = file.read_text()
    assert run_benchmark(protocol, tmp_path, jobs=1) == []
    assert file.read_text() == content
    file.write_text(content[:-20])
    (run,) = missing(protocol, "final", store.read(tmp_path), tmp_path)
    assert file.read_text() == content[:-20], "to read is not to write"
    assert run_benchmark(protocol, tmp_path, jobs=1) == []
    again = store.read(tmp_path)
    assert again[-1]["key"] == run.key == lines[-1]["key"]

    def numbers(item: Line) -> dict[str, Any]:
        return {**item["result"], "seconds": 0}

    assert numbers(again[-1]) == numbers(lines[-1])
    assert estimate(protocol, list(again), jobs=1) == "Nothing is left to run."


def test_a_strange_file_is_left_alone(tmp_path: Path) -> None:
    no_run = dict.fromkeys(("stage", "revision", "result", "cpu_seconds"), 1) | {"config": {}}
    no_numbers = no_run | {"config": dict.fromkeys(("dataset", "model", "method", "seed"), 1)}
    empty = no_numbers | {"result": {}}
    null = no_numbers | {"result": {"versions": {}, "steps": 1, "test_accuracy": None}}
    numbers = dict.fromkeys(("train_loss", "test_loss", "lambda_max", "trace"))
    short = no_numbers | {
        "config": {**no_numbers["config"], "epochs": 2},
        "result": {"versions": {}, "steps": 1, "test_accuracy": 90.0, **numbers},
        "epochs": {name: [1.0] for name in CURVES},
    }
    for content in (
        b'{"a": 1}\n',
        b"not json\n",
        b"[1]\n",
        b"\xff\n",
        *(json.dumps(each).encode() + b"\n" for each in (no_run, no_numbers, empty, null, short)),
    ):
        (tmp_path / store.FILE).write_bytes(content)
        with pytest.raises(UserError, match="not the result file of a benchmark"):
            store.read(tmp_path)
        assert (tmp_path / store.FILE).read_bytes() == content


def test_a_run_that_two_programs_made_counts_once(tmp_path: Path) -> None:
    lines = [
        {**line(50.0 + i, 0.1, seed=seed), "revision": "", "cpu_seconds": 1.0}
        for i, seed in enumerate((0, 1, 0))
    ]
    for each in lines:
        each["result"] |= {"versions": {}, "steps": 1}
        each["result"] |= dict.fromkeys(("train_loss", "lambda_max", "trace"))
    for each in lines:
        store.append(tmp_path, each)
    assert [found["result"] for found in store.read(tmp_path)] == [
        each["result"] for each in lines[:2]
    ]


def test_a_run_from_before_an_option_is_that_of_today(tmp_path: Path) -> None:
    (run, *_) = tuning_runs(TINY, SAM)
    later = {"label_noise", "schedule", "optimizer", "curvature_mode"}
    result = {"versions": {}, "steps": 1, "test_accuracy": 90.0}
    result |= dict.fromkeys(("train_loss", "test_loss", "lambda_max", "trace"))
    store.append(
        tmp_path,
        {
            "key": "of those options",
            "stage": "tuning",
            "revision": "",
            "cpu_seconds": 1.0,
            "config": {name: value for name, value in run.fields.items() if name not in later},
            "result": result,
        },
    )
    (found,) = store.read(tmp_path)
    assert (found["key"], found["config"]) == (run.key, run.fields)


def test_a_folder_is_for_one_benchmark_at_a_time(tmp_path: Path) -> None:
    with store.locked(tmp_path), pytest.raises(UserError, match="in use by another benchmark"):
        run_benchmark(TINY, tmp_path, jobs=1)
    with store.locked(tmp_path):
        assert store.read(tmp_path) == []


def test_dry_run_lists_what_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = Cost(start=595.0, step=0.5, steps=6, images=50, image=0.01, curvature=(2.0, 3.0))
    monkeypatch.setattr("experiments.benchmark.estimate.measure", lambda run: cost)
    monkeypatch.setattr("experiments.benchmark.estimate._timed", lambda action: 5.0)
    protocol = replace(TINY, methods=("sgd", "xsam"))
    _, *rows, last = estimate(protocol, [], jobs=2).splitlines()
    # A worker for each stage; trials of two epochs with 32 images; runs with 50 and the curvature.
    minutes = (2 * 600 + 2 * (3 + 2 * 0.32) + 2 * (3 + 2 * 0.5 + 2 + 3)) / 60
    fields = ["2", "2", "0.5000", f"{minutes:.1f}"]
    assert [row.split() for row in rows] == [
        ["digits", "mlp", method, *fields] for method in ("sgd", "xsam")
    ]
    assert last == f"about {minutes:.0f} minutes with 2 runs at a time"
    trials = [finished(run, 90) for run in tuning_runs(protocol, cells(protocol)[0])]
    assert estimate(protocol, trials, jobs=2).splitlines()[1].split()[3:5] == ["0", "2"]


def test_a_dry_run_times_every_part_of_a_run() -> None:
    (run, _) = final_runs(replace(TINY, tuning=None), SGD, [])
    cost = measure(run)
    assert (cost.steps, cost.images) == (2 * 3, 50)
    assert min(cost.start, cost.step, cost.image, *cost.curvature) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--jobs", "0"], "--jobs must be at least 1"),
        (["digits", "--seeds", "1", "1"], "--seeds must be one or more different values"),
        (["digits", "--tuning-seeds", "1", "1"], "--tuning-seeds must be one or more"),
        (["paper", "--tuning-seeds", "1"], "--tuning-seeds is not for paper"),
        (["digits", "--tuning-seeds", "3"], "must have no seed in common, not 3"),
        (["fashion", "--data-dir", "."], "apt-get install"),
    ],
)
def test_wrong_options(fails: Fails, arguments: list[str], message: str) -> None:
    assert message in fails(main, arguments)
