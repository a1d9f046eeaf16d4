"""results.jsonl: a line for each finished run, which later runs cannot lose."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from experiments.common import files
from experiments.common.errors import UserError

Stage = Literal["tuning", "final"]
# A line of results.jsonl, and the columns of its epochs.
Line = Mapping[str, Any]
CURVES = ("train_loss", "test_loss", "test_accuracy", "lambda_max")
FILE = "results.jsonl"
# What a run did before there was an option to say otherwise: it is the same run today.
_BEFORE = {
    "label_noise": 0.0,
    "schedule": "cosine",
    "optimizer": "sgd",
    "curvature_mode": "training",
}


def read(out: Path) -> list[Line]:
    """Read the finished runs of a folder.

    Args:
        out: Its folder.

    Returns:
        Their lines with their keys, each run once, without one that was cut off when its writer was
        killed; see `mend`.

    Raises:
        UserError: The file is not a benchmark's.
    """
    file = out / FILE
    if not file.exists():
        return []
    try:
        *lines, _ = file.read_text().split("\n")
    except (OSError, ValueError):
        raise UserError(f"{file} is not the result file of a benchmark.") from None
    once: dict[str, Line] = {}
    for number, text in enumerate(lines, 1):
        line = _run_of(text)
        if line is None:
            raise UserError(
                f"{file} is not the result file of a benchmark: line {number} is no run. If it is "
                "damaged, remove that line, and the same command makes the run anew."
            )
        once.setdefault(line["key"], line)  # two programs may have made a run
    return list(once.values())


def _run_of(text: str) -> Line | None:
    """Parse a line of the file; None if it is no run."""
    try:
        line: Line = json.loads(text)
        result, config = line["result"], line["config"]
        known = (
            {"stage", "revision", "cpu_seconds"} <= line.keys()
            and {"dataset", "model", "method", "seed"} <= config.keys()
            and {"versions", "steps", "train_loss", "test_loss", "lambda_max", "trace"}
            <= result.keys()
            and isinstance(result["test_accuracy"], (int, float))
            and (line["stage"] == "tuning" or _curves_of(line) == {config["epochs"]})
        )
    except (ValueError, AttributeError, TypeError, KeyError):
        return None
    config = {**_BEFORE, **config}
    return {**line, "config": config, "key": key_of(line["stage"], config)} if known else None


def _curves_of(line: Line) -> set[int]:
    """The lengths of a final run's curves."""
    return {len(line["epochs"][name]) for name in CURVES}


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other processes from adding to the file.

    Raises:
        UserError: Another one does so, or the file cannot be written.
    """
    with files.writing(out / FILE):
        (out / FILE).open("a").close()
    with files.locked(out / FILE, f"--out {out} is in use by another benchmark."):
        yield


def mend(out: Path) -> None:
    """Cut off an unfinished last line, so that the next one starts on its own."""
    file = out / FILE
    if file.exists():
        os.truncate(file, file.read_bytes().rfind(b"\n") + 1)


def append(out: Path, line: Mapping[str, Any]) -> None:
    """Add a finished run, and wait until it is on the disk."""
    with files.writing(out / FILE), (out / FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def revision() -> str:
    """Ask git for the revision, with a + where files were changed since; empty without git."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":(top)*.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def but_for_the_seed(config: Mapping[str, Any]) -> str:
    """Write a configuration without its seed as text, equal for runs that may be averaged."""
    return json.dumps({**config, "seed": None}, sort_keys=True)


def key_of(stage: Stage, fields: Mapping[str, Any]) -> str:
    """Hash everything that a run's numbers depend on, its `Planned.fields`."""
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(f"{stage} {text}".encode()).hexdigest()[:16]
