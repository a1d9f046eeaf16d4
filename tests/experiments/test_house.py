"""Who may import whom: programs stand on top, and the rooms below them know nothing above."""

import ast
from pathlib import Path

import pytest

import experiments

ROOT = Path(*experiments.__path__)
# From the ground up: a room imports its own files and those of the rooms before it.
ROOMS = ("common", "data", "models", "training", "workers")
PROGRAMS = (
    *("train", "analyse", "compare", "lambda_max"),
    *("benchmark", "figures", "rates", "speed", "tracking"),
)
# It asks the programs for their tables.
TOP = "tables"


def room_of(file: Path) -> str:
    return file.relative_to(ROOT).with_suffix("").parts[0]


def imported(file: Path) -> set[str]:
    """List the rooms and programs from which a file imports."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    # Nothing comes from the package itself, so that the second name is that of the room.
    return {name.split(".")[1] for name in names if name.split(".")[0] == "experiments"}


def test_every_file_has_its_place() -> None:
    assert {room_of(file) for file in ROOT.rglob("*.py")} == {"__init__", *ROOMS, *PROGRAMS, TOP}


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_down(file: Path) -> None:
    room = room_of(file)
    below = ROOMS[: ROOMS.index(room)] if room in ROOMS else ROOMS
    if room == TOP:
        below = (*ROOMS, *PROGRAMS)
    assert imported(file) <= {room, *below}
