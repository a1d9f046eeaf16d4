"""Files and folders that the documents name exist."""

import re
from pathlib import Path

import pytest

from tests.documents.text import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MADE_UP = {"xsam_jax/_methods/yours.py", "tests/methods/test_yours.py"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_what_is_named_exists(document: Path) -> None:
    text = document.read_text()
    named = re.findall(r"`((?:xsam_jax|experiments|tests|docs|results|\.ci)/[\w./]*)", text)
    missing = {path for path in named if not (ROOT / path).exists()} - MADE_UP
    assert not missing
    folder = document.parent
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert not {path for path in linked if not (folder / path).exists()}
