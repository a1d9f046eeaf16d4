"""What the tests of figures share."""

import csv
from pathlib import Path
from typing import Any


def table(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def tiny(tmp_path: Path) -> dict[str, Any]:
    return {
        "out": tmp_path / "out",
        "runs": tmp_path / "runs",
        "model": "mlp",
        "epochs": 1,
        "batch_size": 20,
        "train_images": 60,
        "test_images": 50,
    }


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("a finished run was started again")
