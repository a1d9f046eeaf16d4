"""What README's sentences say of a measurement, against the files that it was written to."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
README = " ".join((ROOT / "README.md").read_text().split())


def says(sentence: str, *measured: float) -> None:
    """README has this sentence once, with these numbers, rounded, in the places of its #."""
    pattern = re.escape(sentence).replace(r"\#", r"(\d[\d,]*(?:\.\d+)?)")
    (found,) = re.finditer(pattern, README)
    for quoted, number in zip(found.groups(), measured, strict=True):
        decimals = len(quoted.partition(".")[2])
        assert quoted == f"{number:,.{decimals}f}", sentence
