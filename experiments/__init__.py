"""Training programs that redo the paper's tables and figures: ``python -m experiments.NAME``.

`load` takes a trained network out of the folder of its run.
"""

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.training.trained import TrainedRun

_NEEDED = (
    "chex",
    "flax",
    "jax",
    "markdown_it",
    "matfree",
    "matplotlib",
    "optax",
    "orbax",
    "rich",
    "scipy",
    "sklearn",
    "tyro",
)

if _missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
    print(
        f"The experiments need {', '.join(_missing)}: pip install -e '.[experiments]'",
        file=sys.stderr,
    )
    raise SystemExit(2)


def load(directory: str | Path, *, data_dir: str | Path | None = None) -> "TrainedRun":
    """Load a trained network and its data, see `experiments.training.trained.load`."""
    from experiments.training import trained  # only now, for it imports JAX

    return trained.load(directory, data_dir=data_dir)
