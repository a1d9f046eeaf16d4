"""Every block of Python in README and the pages runs."""

import re
from typing import Any

import jax
import pytest

from tests.documents.text import ROOT

PAGES = ("methods", "curvature", "trackers")
FILES = [ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in PAGES)]
FILES += sorted((ROOT / "docs" / "recipes").glob("*.md"))
BLOCKS = {
    f"{file.stem} {i}": block
    for file in FILES
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL))
}


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block: str) -> None:
    namespace: dict[str, Any] = {}
    # What a user has; Flax promotes dtypes and ranks.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(BLOCKS[block], block, "exec"), namespace)


def test_signs_of_the_first_example() -> None:
    """In about half of its steps Eq. 11's sign is negative, as docs/methods.md says."""
    start, loop = BLOCKS["README 0"].split("for i in range(100):")
    negative: list[bool] = []
    loop = loop.replace("print(", "    negative.append(bool(state[0].alignment < 0))\nprint(")
    namespace: dict[str, Any] = {"negative": negative}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(f"{start}for i in range(100):{loop}", namespace)
    assert len(negative) == 100
    assert 35 < sum(negative) < 65
