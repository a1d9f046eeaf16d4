"""README says what the code does: every block of Python runs, every figure comes from a file."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SPEED = sorted((ROOT / "results" / "speed").glob("*.json"))


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_block_runs(index: int) -> None:
    namespace: dict[str, Any] = {}
    exec(compile(BLOCKS[index], f"README block {index}", "exec"), namespace)


@pytest.mark.parametrize("file", SPEED, ids=lambda file: file.stem)
def test_cost_table_is_the_measured_one(file: Path) -> None:
    from experiments.speed.table import from_json, table

    record = json.loads(file.read_text())
    assert record["command"] in README
    for line in table([from_json(row) for row in record["rows"]]).splitlines():
        assert line in README


REPORTS = ("digits", "fashion_small", "cheap")


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
    assert len(quoted) == 10 + 12 + 10
    assert all(row in rows for row in quoted)
