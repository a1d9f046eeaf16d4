"""The program that writes tables into documents."""

from pathlib import Path

import pytest

from experiments.common.errors import UserError
from experiments.tables.documents import refreshed

RATES = """task,optimizer,schedule,method,learning_rate,accuracy,standard_error
digits,sgd,cosine,sam,0.02,95,0.1
digits,sgd,cosine,sam,0.04,96,0.1
digits,sgd,cosine,sam,0.08,96,0.1
digits,sgd,cosine,xsam,0.08,96,0.1
digits,sgd,cosine,xsam,0.16,97,0.1
digits,adamw,cosine,sam,0.001,90,0.1
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "rates").mkdir()
    (tmp_path / "rates" / "rates.csv").write_text(RATES)
    return tmp_path


def test_a_table_is_replaced_and_nothing_else(results: Path) -> None:
    before = "# A\n\n<!-- table: rates -->\nold\n\n| old |\n<!-- end -->\n\nand a | sentence\n"
    after = refreshed(before, results, "a.md")
    table = [
        "| task | optimizer | schedule | sam | xsam |",
        "| --- | --- | --- | --- | --- |",
        "| digits | sgd | cosine | 0.04 (1) | 0.16 (4) |",
        "| digits | adamw | cosine | 0.001 (1) | |",
    ]
    place = "\n".join(["<!-- table: rates -->", *table, "<!-- end -->"])
    assert after == f"# A\n\n{place}\n\nand a | sentence\n"
    assert refreshed(after, results, "a.md") == after


def test_two_tables(results: Path) -> None:
    place = "<!-- table: rates -->\n<!-- end -->\n"
    assert refreshed(f"{place}between\n{place}", results, "a.md").count("| digits | sgd |") == 2


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("nonsense", "nonsense"),
        ("rates digits", "rates"),
        ("accuracy digits", "FOLDER NETWORK METHODS..."),
        ("accuracy digits mlp", "report.md"),
        ("tracking", "FOLDER TRACKERS..."),
        ("tracking nowhere", "tracking.csv"),
    ],
)
def test_what_cannot_be_written_is_named(results: Path, place: str, named: str) -> None:
    with pytest.raises(UserError, match=r"^a\.md: ") as error:
        refreshed(f"<!-- table: {place} -->\n<!-- end -->\n", results, "a.md")
    assert named in str(error.value)


@pytest.mark.parametrize("after", ["| a |\n", "<!-- table: rates -->\n<!-- end -->\n"])
def test_a_place_without_an_end(results: Path, after: str) -> None:
    with pytest.raises(UserError, match="end"):
        refreshed(f"<!-- table: rates -->\n{after}", results, "a.md")
