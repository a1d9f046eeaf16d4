"""Which values an option of a run may have."""

import math
from collections.abc import Callable
from typing import Any

from experiments.errors import UserError

# A value is allowed, and how an error says what is.
_Rule = tuple[Callable[[Any], bool], str]
_NONE_OR_ONE: _Rule = (lambda x: x is None or x >= 1, "at least 1")
_AT_LEAST_ONE: _Rule = (lambda x: x >= 1, "at least 1")
_NOT_NEGATIVE: _Rule = (lambda x: x >= 0 and math.isfinite(x), "finite and not negative")
_POSITIVE: _Rule = (lambda x: x > 0 and math.isfinite(x), "finite and above 0")
_FRACTION: _Rule = (lambda x: 0 <= x < 1, "in [0, 1)")


def validate(config: object) -> None:
    """Check the options of a resolved configuration.

    Args:
        config: A `ResolvedConfig`.

    Raises:
        UserError: A value is outside its range; the text names the option and the range.
    """
    rules: dict[str, _Rule] = {
        "epochs": _AT_LEAST_ONE,
        "batch_size": _AT_LEAST_ONE,
        "refresh_every": _AT_LEAST_ONE,
        "sparse_every": _AT_LEAST_ONE,
        "power_iters": _AT_LEAST_ONE,
        "curvature_samples": _AT_LEAST_ONE,
        "num_matvecs": _AT_LEAST_ONE,
        "train_images": _NONE_OR_ONE,
        "test_images": _NONE_OR_ONE,
        "validation_images": _NONE_OR_ONE,
        "trace_probes": (lambda x: x == 0 or x >= 2, "0 or at least 2"),
        "seed": (lambda x: 0 <= x < 2**32, "in [0, 2**32)"),
        "curvature_every": _NOT_NEGATIVE,
        "checkpoint_every": _NOT_NEGATIVE,
        "max_bad_steps": _NOT_NEGATIVE,
        "learning_rate": _POSITIVE,
        "rho": _NOT_NEGATIVE,
        "weight_decay": _NOT_NEGATIVE,
        "gsam_alpha": _NOT_NEGATIVE,
        "fsam_sigma": _NOT_NEGATIVE,
        "oja_rate": _POSITIVE,
        "label_noise": _FRACTION,
        "momentum": _FRACTION,
        "wsam_gamma": _FRACTION,
        "late_start": _FRACTION,
        "ascent_part": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
        "fsam_decay": _FRACTION,
        "alpha": (lambda x: 0 <= x <= 2, "in [0, 2]"),
    }
    for name, (allowed, words) in rules.items():
        value = getattr(config, name)
        if not allowed(value):
            raise UserError(f"--{name.replace('_', '-')} must be {words}, not {value}.")
