"""The blocks of Python in the documents, and how they are run."""

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import pytest

from tests.documents.text import ROOT

# Of the extra "dev"; the library needs none of them.
_OPTIONAL = {"equinox", "haiku", "orbax", "tensorboardX"}


def blocks(file: Path) -> list[str]:
    """All blocks of a page."""
    return re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL)


def recipe(page: str, heading: str) -> str:
    """The first block under a heading of a page of recipes."""
    text = (ROOT / "docs" / "recipes" / f"{page}.md").read_text()
    _, section = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.MULTILINE)
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found.group(1)


@contextmanager
def as_users_do() -> Iterator[None]:
    """What a user has; Flax, among others, promotes dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def run(block: str, changes: Mapping[str, str] | None = None, **names: Any) -> dict[str, Any]:
    """Runs a block and returns what it defines.

    Args:
      block: the code.
      changes: what is written in the place of a text that the block has once.
      names: what these may refer to.
    """
    for old, new in (changes or {}).items():
        assert block.count(old) == 1, old
        block = block.replace(old, new)
    for node in ast.walk(ast.parse(block)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        for module in {module.split(".")[0] for module in modules} & _OPTIONAL:
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"needs {module}: pip install -e '.[dev]'")
    namespace: dict[str, Any] = dict(names)
    with as_users_do():
        exec(compile(block, "block", "exec"), namespace)
    return namespace
