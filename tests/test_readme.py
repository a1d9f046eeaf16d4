"""README says what the code does: every block of Python runs, every figure comes from a file."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import jax
import pytest

from tests.readme import ROOT, says

README = (ROOT / "README.md").read_text()
COST = (ROOT / "docs" / "cost.md").read_text()
BLOCKS = {
    f"{file.stem} {i}": block
    for file in (ROOT / "README.md", ROOT / "docs" / "recipes.md")
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL))
}
SPEED = sorted((ROOT / "results" / "speed").glob("*.json"))


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block: str) -> None:
    namespace: dict[str, Any] = {}
    # What a user has; Flax promotes dtypes and ranks.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(BLOCKS[block], block, "exec"), namespace)


def test_tracking_is_from_the_measured_table() -> None:
    with (ROOT / "results" / "tracking" / "tracking.csv").open() as file:
        rows = {(row["setting"], row["tracker"]): row for row in csv.DictReader(file)}
    measured = [
        float(rows[setting, tracker]["quality"])
        for tracker in ("subspace_4", "paper")
        for setting in ("cnn", "cnn_bn", "mlp")
    ]
    says("lambda_1` is #, # and #, where the paper's schedule has #, # and #,", *measured)


def test_lambda_max_is_the_measured_one() -> None:
    file = ROOT / "results" / "curvature" / "cpu-resnet18-fashion_mnist-2048.json"
    found = json.loads(file.read_text())
    words = (
        f"is {found['lambda_max']:.1f}\nwith a residual of {found['residual']:.1f}: "
        f"{found['cpu_seconds'] / 60:.0f} minutes of CPU time"
    )
    assert words in README


@pytest.mark.parametrize("file", SPEED, ids=lambda file: file.stem)
def test_cost_table_is_the_measured_one(file: Path) -> None:
    from experiments.speed.table import from_json, table

    record = json.loads(file.read_text())
    assert record["command"] in COST
    for line in table([from_json(row) for row in record["rows"]]).splitlines():
        assert line in COST


def test_quoted_costs_are_from_the_tables() -> None:
    section = README[README.index("## Cost") : README.index("## The paper's theorems")]
    quoted = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(quoted) >= 8
    assert all(line in COST for line in quoted)


REPORTS = ("digits", "fashion_small", "cheap", "cheap_fashion", "fashion_gpu", "digits_again")


@pytest.mark.parametrize("name", REPORTS)
def test_report_is_that_of_the_committed_runs(name: str) -> None:
    from experiments.benchmark import store
    from experiments.report.text import report

    folder = ROOT / "results" / name
    assert (folder / "report.md").read_text() == report(store.read(folder), {})


def test_benchmark_tables_are_from_the_reports() -> None:
    rows = [
        line
        for name in REPORTS
        for line in (ROOT / "results" / name / "report.md").read_text().splitlines()
    ]
    section = README[README.index("## The benchmark") : README.index("## Cost")]
    quoted = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(quoted) == 11 + 12 + 10 + 10
    assert all(row in rows for row in quoted)
