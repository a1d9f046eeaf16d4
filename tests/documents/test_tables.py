"""Every table is that of the files that its numbers were written to."""

import json
import re
from pathlib import Path
from statistics import mean

import pytest

from experiments.benchmark.report.text import report
from experiments.speed import gpu, tpu
from experiments.speed.compilation import Compiled
from experiments.speed.table import from_json, table
from experiments.workers import store
from tests.documents.text import RESULTS, ROOT, rows

README = (ROOT / "README.md").read_text()
COST = (ROOT / "docs" / "cost.md").read_text()
BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text()
SPEED = sorted((RESULTS / "speed").glob("*.json"))
REPORTS = (
    "digits",
    "digits_again",
    "noisy",
    "noisy_again",
    "fashion_small",
    "fashion_small_again",
    "cheap",
    "cheap_fashion",
    "fashion_gpu",
)


def quoted(text: str) -> list[str]:
    """The lines of its tables, without those below the headings."""
    return [line for line in text.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("file", SPEED, ids=lambda file: file.stem)
def test_cost_table_is_the_measured_one(file: Path) -> None:
    record = json.loads(file.read_text())
    assert record["command"] in COST
    for line in table([from_json(row) for row in record["rows"]]).splitlines():
        assert line in COST


@pytest.mark.parametrize("name", REPORTS)
def test_report_is_that_of_the_committed_runs(name: str) -> None:
    folder = ROOT / "results" / name
    assert (folder / "report.md").read_text() == report(store.read(folder), {})


def test_benchmark_tables_are_from_the_reports() -> None:
    reports = [quoted((RESULTS / name / "report.md").read_text()) for name in REPORTS]
    section = README[README.index("## What we measured") : README.index("## Two commands")]
    lines = [*quoted(section), *quoted(BENCHMARKS)]
    assert len(lines) == 10 + (12 + 16 + 12 + 11 + 10)
    assert {*lines} <= {line for lines in reports for line in lines}


def test_table_of_the_trackers() -> None:
    measured: dict[str, list[dict[str, str]]] = {}
    for row in rows("tracking/tracking.csv"):
        measured.setdefault(row["tracker"], []).append(row)
    lines = {
        " | ".join(
            [
                *(
                    f"{float(r['quality']):.2f} ± {float(r['quality_deviation']):.2f}"
                    for r in settings
                ),
                f"{mean(float(r['quality']) for r in settings):.2f}",
            ]
        )
        for settings in measured.values()
    }
    text = (RESULTS / "tracking" / "README.md").read_text()
    found = re.findall(r"^\|[^|]*\|[^|]*\| (.*±.*) \|$", text, re.MULTILINE)
    assert len(found) >= 20
    assert {*found} <= lines


@pytest.mark.parametrize("file", sorted((RESULTS / "planned").glob("*.json")), ids=lambda f: f.stem)
def test_planned_table_is_the_compiler_s(file: Path) -> None:
    record = json.loads(file.read_text())
    assert record["command"] in COST
    steps = {name: Compiled(0.0, **step) for name, step in record["steps"].items()}
    assert tpu.table(steps) in COST


@pytest.mark.parametrize("file", sorted((RESULTS / "kernels").glob("*.json")), ids=lambda f: f.stem)
def test_table_of_kernels_is_the_compiler_s(file: Path) -> None:
    record = json.loads(file.read_text())
    assert record["command"] in COST
    steps = {name: gpu.Program(**step) for name, step in record["steps"].items()}
    assert gpu.table(steps) in COST
