"""Runs docs/tutorials/*.py and makes pages of their text, code, output and pictures.

A cell begins with ``# %%``, a cell of text with ``# %% [markdown]``, as in Jupytext's percent
format, which editors know. A cell that fails ends the build.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib import pyplot as plt
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

FOLDER = Path(__file__).parent.parent / "docs" / "tutorials"
_MARK = re.compile(r"^# %%(.*)$", re.MULTILINE)


class Cell(NamedTuple):
    """A piece of a tutorial; ``line`` is its first line in the file, counted from 0."""

    is_text: bool
    source: str
    line: int


class Picture(NamedTuple):
    """A drawn figure."""

    label: str
    svg: bytes


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and pictures of all tutorials."""
    for path in sorted(FOLDER.glob("*.py")):
        page, pictures = run(path.read_text(), path)
        name = f"docs/tutorials/{path.stem}"
        files.append(File.generated(config, f"{name}.md", content=page))
        files.append(File.generated(config, f"{name}.py", content=path.read_text()))
        for i, picture in enumerate(pictures):
            files.append(File.generated(config, f"{name}-{i}.svg", content=picture.svg))
    return files


def cells(source: str) -> list[Cell]:
    """The cells of a file; what stands before the first mark is none."""
    marks = list(_MARK.finditer(source))
    ends = [*(mark.start() for mark in marks[1:]), len(source)]
    found = []
    for mark, end in zip(marks, ends, strict=True):
        text = source[mark.end() : end]
        is_text = mark[1].strip() == "[markdown]"
        if is_text:
            text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
        found.append(Cell(is_text, text.strip("\n"), source[: mark.end()].count("\n") + 1))
    return found


@functools.cache  # `mkdocs serve` builds again whenever any file changes
def run(source: str, path: Path) -> tuple[str, list[Picture]]:
    """Runs a tutorial.

    Returns:
      Its page in Markdown, and the pictures that the page names.

    Raises:
      PluginError: a cell raised; the message has its traceback, with lines of the file.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    download = f'<a href="{path.name}" download>This page as a program</a>'
    page = [download]
    pictures: list[Picture] = []
    with plt.rc_context({"savefig.bbox": "tight", "svg.hashsalt": path.name}):
        mpl.use("svg")
        for cell in cells(source):
            if cell.is_text:
                page.append(cell.source)
                continue
            printed = _execute(cell, namespace, path)
            page.append(f"```python\n{cell.source}\n```")
            if printed:
                page.append(f"``` {{ .text .output }}\n{printed}\n```")
            for picture in _drawn():
                page.append(f"![{picture.label}]({path.stem}-{len(pictures)}.svg)")
                pictures.append(picture)
    page[:2] = page[1::-1]  # the title first
    return "\n\n".join(page), pictures


def _execute(cell: Cell, namespace: dict[str, Any], path: Path) -> str:
    """What a cell prints."""
    code = compile("\n" * cell.line + cell.source, str(path), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            exec(code, namespace)
        except Exception as error:
            raise PluginError(f"{path}\n{traceback.format_exc()}") from error
    return printed.getvalue().rstrip()


def _drawn() -> list[Picture]:
    """The open figures, which are closed."""
    pictures = []
    for number in plt.get_fignums():
        figure, file = plt.figure(number), io.BytesIO()
        figure.savefig(file, format="svg")
        pictures.append(Picture(str(figure.get_label()), file.getvalue()))
        plt.close(figure)
    return pictures
