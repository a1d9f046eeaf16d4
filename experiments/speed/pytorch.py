"""What the measurements beside PyTorch share: they need it, and write down its version."""

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from experiments.common.errors import UserError
from experiments.common.files import write_json
from experiments.common.machine import device, versions
from experiments.common.options import command


def need_pytorch(program: str) -> None:
    """Raises `UserError`, with the command that installs it, unless PyTorch is there."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(f"{program} needs PyTorch: pip install -e '.[published]'.")


def save(file: Path, program: str, options: dict[str, Any], **measured: Any) -> None:
    """Write what was measured to a JSON file.

    Args:
        file: The file.
        program: Name of the module that was run.
        options: Its options, for the command.
        **measured: The measurement.
    """
    record = {
        "command": command(program, **options),
        "device": device(),
        "versions": versions() | {"torch": importlib.metadata.version("torch")},
    }
    write_json(file, record | measured)
    print(f"written to {file}")
