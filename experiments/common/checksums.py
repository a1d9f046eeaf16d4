"""Whether a folder still holds what was written to it."""

import hashlib
import json
import os
from pathlib import Path

_SUMS = "SHA256SUMS"


def seal(folder: Path) -> None:
    """Write the checksum of every file of a folder beside them, and see all of it on the disk."""
    (folder / _SUMS).write_text(json.dumps(_checksums(folder)))
    for path in (folder, *folder.rglob("*")):
        sync(path)


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder, None if nothing is."""
    try:
        expected, found = json.loads((folder / _SUMS).read_text()), _checksums(folder)
    except (OSError, ValueError) as error:
        return f"{_SUMS}: {error}"
    if not isinstance(expected, dict):
        return f"{_SUMS} is not what was written"
    if expected == found:
        return None
    name = next(n for n in {**expected, **found} if expected.get(n) != found.get(n))
    if name not in found:
        return f"{name} is missing"
    return f"{name} is not what was written"


def sync(path: Path) -> None:
    """See a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != _SUMS)
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }
