"""Writes report.md and report.html from the lines of results.jsonl."""

import base64
import html
from pathlib import Path

from markdown_it import MarkdownIt

from experiments.benchmark.report.text import report
from experiments.common.errors import UserError
from experiments.common.files import write_atomically
from experiments.workers import store

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.3em .6em;"
    "text-align:left;font-variant-numeric:tabular-nums}img{max-width:100%}"
)


def write_report(out: Path) -> None:
    """Write report.md with its pictures, and report.html with the pictures inside.

    Args:
        out: Folder of a benchmark.

    Raises:
        UserError: It holds no results, or such as cannot be averaged, or cannot be written.
    """
    if not out.is_dir():
        raise UserError(f"{out} is no folder.")
    lines = store.read(out)
    finals = [line for line in lines if line["stage"] == "final"]
    if not finals:
        raise UserError(f"{out} holds no finished run of a benchmark.")
    pictures: dict[str, bytes] = {}
    text = report(lines, pictures)
    page = MarkdownIt().enable("table").render(text)
    for name, content in pictures.items():
        data = base64.b64encode(content).decode()
        page = page.replace(f'src="{name}"', f'src="data:image/png;base64,{data}"')
    title = html.escape(text.splitlines()[0].removeprefix("# "))
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><body>{page}</body></html>\n"
    )
    files = {"report.md": text.encode(), "report.html": page.encode(), **pictures}
    for name, content in files.items():
        write_atomically(out / name, content)
