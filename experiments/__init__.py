"""Training programs that redo the paper's tables and figures: ``python -m experiments.NAME``."""

import importlib.util
import sys

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
