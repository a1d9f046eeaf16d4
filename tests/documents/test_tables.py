"""Every table and every report is that of the files that its numbers were written to."""

from pathlib import Path

import pytest

from experiments.benchmark.report.text import report
from experiments.tables.documents import documents, refreshed
from experiments.workers import store
from tests.documents.text import RESULTS, ROOT

REPORTS = sorted(file.parent for file in RESULTS.glob("*/report.md"))


@pytest.mark.parametrize("document", documents(ROOT), ids=lambda file: str(file.relative_to(ROOT)))
def test_tables_are_current(document: Path) -> None:
    """Where this fails, `python -m experiments.tables` writes them anew."""
    text = document.read_text()
    assert refreshed(text, RESULTS, document.name) == text


@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: folder.name)
def test_report_is_that_of_the_committed_runs(folder: Path) -> None:
    assert (folder / "report.md").read_text() == report(store.read(folder), {})
