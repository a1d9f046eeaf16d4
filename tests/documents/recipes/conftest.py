"""In float64, so that what is equal is seen to be; the rest as a user has it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents.blocks import as_users_do


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(
    strict_numerics: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)  # some recipes write files
    with as_users_do():
        yield
