"""Checks of options that several programs have."""

import math
from collections.abc import Callable
from typing import Any

from experiments.common.errors import UserError

# A value is allowed, and how an error says what is.
Rule = tuple[Callable[[Any], bool], str]
NONE_OR_ONE: Rule = (lambda x: x is None or x >= 1, "at least 1")
AT_LEAST_ONE: Rule = (lambda x: x >= 1, "at least 1")
NOT_NEGATIVE: Rule = (lambda x: x >= 0 and math.isfinite(x), "finite and not negative")
POSITIVE: Rule = (lambda x: x > 0 and math.isfinite(x), "finite and above 0")
FRACTION: Rule = (lambda x: 0 <= x < 1, "in [0, 1)")


def distinct(name: str, values: tuple[Any, ...]) -> None:
    """Refuse a list that is empty or names something twice.

    Raises:
        UserError: It does; the text names the option.
    """
    if not values or len(set(values)) < len(values):
        raise UserError(f"--{name} must be one or more different values.")


def seeds(name: str, values: tuple[int, ...]) -> None:
    """Refuse seeds that are none, not distinct or not in [0, 2**32).

    Raises:
        UserError: They are; the text names the option.
    """
    distinct(name, values)
    if not all(0 <= value < 2**32 for value in values):
        raise UserError(f"--{name} must be in [0, 2**32), not {', '.join(map(str, values))}.")


def positive(name: str, value: int) -> None:
    """Refuse a number below 1.

    Raises:
        UserError: It is; the text names the option.
    """
    if value < 1:
        raise UserError(f"--{name} must be at least 1, not {value}.")
