"""Write files as a whole, and say in one sentence what goes wrong with them."""

import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from experiments.common.errors import UserError


@contextmanager
def writing(place: str | Path) -> Iterator[None]:
    """Turn what goes wrong with a file or a folder into a `UserError` that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{place} cannot be written: {error.strerror}.") from None


def make_folder(folder: Path) -> None:
    """Make a folder for results, before they are measured.

    Raises:
        UserError: It cannot be written.
    """
    with writing(f"--out {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass


def check_folder(folder: Path) -> None:
    """Refuse a folder for results that cannot be made, without making it.

    Raises:
        UserError: It cannot be written.
    """
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"--out {folder} cannot be written: {place} is no folder to write in.")


@contextmanager
def locked(place: Path, in_use: str) -> Iterator[None]:
    """Keep other processes out of a file or a folder.

    Args:
        place: The file or the folder.
        in_use: What to say where another process has it.

    Raises:
        UserError: Another process has it.
    """
    descriptor = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(in_use) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


def write_atomically(file: Path, content: bytes) -> None:
    """Replace a file as a whole.

    Raises:
        UserError: It cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with writing(file):
        try:
            temporary.write_bytes(content)
            temporary.replace(file)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Replace a JSON file as a whole."""
    write_atomically(file, (json.dumps(value, indent=2) + "\n").encode())


def finite(value: Any) -> Any:
    """A value for JSON, which has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def damaged(place: Path) -> UserError:
    """Make the error that says: remove this damaged file, and the command makes it again."""
    return UserError(f"{place} is damaged: remove it, and the same command makes it anew.")


def read_json(file: Path) -> Any:
    """Read a file that `write_json` wrote.

    Raises:
        UserError: It is something else.
    """
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        raise damaged(file) from None
