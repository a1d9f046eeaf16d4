"""The repository's files as pages of the site."""

from types import SimpleNamespace
from typing import Any

import pytest

from website.pages import ROOT, expanded, on_page_markdown


def test_patterns_of_the_navigation() -> None:
    api = sorted(f"docs/api/{file.name}" for file in (ROOT / "docs" / "api").glob("*.md"))
    assert expanded([{"API": ["README.md", "docs/api/*.md"]}]) == [{"API": ["README.md", *api]}]


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](../results/curvature)", "[a](../results/curvature/README.md)"),
        ("[a](../results/curvature/)", "[a](../results/curvature/README.md)"),
        ("[a](tutorials/compare.py)", "[a](tutorials/compare.md)"),
        ("[a](methods.md#eq-11)", "[a](methods.md#eq-11)"),
        ("[a](https://jax.dev)", "[a](https://jax.dev)"),
    ],
)
def test_links_to_folders_and_programs(link: str, expected: str) -> None:
    page: Any = SimpleNamespace(file=SimpleNamespace(src_uri="docs/cost.md"))
    assert on_page_markdown(link, page) == expected
