"""What a document's sentences say of a measurement, against the files that it was written to."""

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "results"


def words(file: str) -> str:
    """A document without its line breaks."""
    return " ".join((ROOT / file).read_text().split())


README, BENCHMARKS = words("README.md"), words("docs/benchmarks.md")
METHODS_PAGE, CURVATURE_PAGE = words("docs/methods.md"), words("docs/curvature.md")
COST = words("docs/cost.md")
RECIPES = " ".join(
    words(f"docs/recipes/{file.name}") for file in (ROOT / "docs/recipes").glob("*.md")
)
CHANGELOG = words("CHANGELOG.md")


def says(text: str, sentence: str, *measured: float) -> None:
    """The text has this sentence once, with these numbers, rounded, in the places of its #."""
    pattern = re.escape(sentence).replace(r"\#", r"(\d[\d,]*(?:\.\d+)?)")
    (found,) = re.finditer(pattern, text)
    for quoted, number in zip(found.groups(), measured, strict=True):
        decimals = len(quoted.partition(".")[2])
        assert quoted == f"{number:,.{decimals}f}", sentence


def ends(values: Iterable[float]) -> tuple[float, float]:
    """The least and the largest."""
    found = sorted(values)
    return found[0], found[-1]


def rows(file: str) -> list[dict[str, str]]:
    """Of a table of comma-separated values."""
    with (RESULTS / file).open() as lines:
        return list(csv.DictReader(lines))


def lines(name: str) -> list[dict[str, Any]]:
    """Of a benchmark's results, trials and final runs."""
    text = (RESULTS / name / "results.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def runs(name: str, stage: str = "final") -> list[dict[str, Any]]:
    """Options and results of a benchmark's runs."""
    found = [line for line in lines(name) if line["stage"] == stage]
    return [{**line["config"], **line["result"]} for line in found]
