"""results.jsonl: a line for each finished run, kept whatever happens to the runs after it."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.benchmark.protocol import Line
from experiments.errors import UserError

FILE = "results.jsonl"


def read(out: Path) -> list[Line]:
    """The finished runs of a benchmark.

    Args:
        out: Its folder.

    Returns:
        Their lines, without one that was cut off when its writer was killed.

    Raises:
        UserError: The file is not a benchmark's.
    """
    file = out / FILE
    if not file.exists():
        return []
    *lines, rest = file.read_text().split("\n")
    try:
        found: list[Line] = [json.loads(line) for line in lines]
        known = all({"key", "stage", "config", "result"} <= line.keys() for line in found)
    except (ValueError, AttributeError):
        known = False
    if not known:
        raise UserError(f"{file} is not the result file of a benchmark.")
    if rest:
        # What is appended next must start on a line of its own.
        file.write_text("".join(line + "\n" for line in lines))
    return found


def append(out: Path, line: Mapping[str, Any]) -> None:
    """Add a finished run, and see it on the disk."""
    with (out / FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def revision() -> str:
    """The git revision of this program, with a + if it was changed since; empty without git."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":(top)*.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
