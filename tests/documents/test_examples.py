"""Every block of Python in README and the pages runs."""

from pathlib import Path

import pytest

from tests.documents.blocks import blocks, run
from tests.documents.text import ROOT

PAGES = ("methods", "curvature", "trackers")
FILES = [ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in PAGES)]
FILES += sorted((ROOT / "docs" / "recipes").glob("*.md"))
BLOCKS = {f"{file.stem} {i}": block for file in FILES for i, block in enumerate(blocks(file))}


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    run(BLOCKS[block])


def test_signs_of_the_first_example() -> None:
    """In about half of its steps Eq. 11's sign is negative, as docs/methods.md says."""
    start, loop = BLOCKS["README 0"].split("for i in range(100):")
    negative: list[bool] = []
    loop = loop.replace("print(", "    negative.append(bool(state[0].alignment < 0))\nprint(")
    run(f"{start}for i in range(100):{loop}", negative=negative)
    assert len(negative) == 100
    assert 35 < sum(negative) < 65
