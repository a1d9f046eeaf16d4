"""Checks of options, and the command line that a file was made with."""

import math
from collections.abc import Callable, Collection
from typing import Any

from experiments.common.errors import UserError

# Which values are allowed, and how an error says so.
Rule = tuple[Callable[[Any], bool], str]
AT_LEAST_ONE: Rule = (lambda x: x >= 1, "at least 1")
NONE_OR_ONE: Rule = (lambda x: x is None or x >= 1, "at least 1")
NOT_NEGATIVE: Rule = (lambda x: x >= 0 and math.isfinite(x), "finite and not negative")
POSITIVE: Rule = (lambda x: x > 0 and math.isfinite(x), "finite and above 0")
FRACTION: Rule = (lambda x: 0 <= x < 1, "in [0, 1)")
ALPHA: Rule = (lambda x: 0 <= x <= 2, "in [0, 2]")
SEED: Rule = (lambda x: 0 <= x < 2**32, "in [0, 2**32)")


def check(name: str, value: Any, rule: Rule) -> None:
    """Refuse a value that is not allowed.

    Args:
        name: The option's, with or without underscores.
        value: Its value.
        rule: Which ones are allowed.

    Raises:
        UserError: It is not; the text names the option and what is allowed.
    """
    allowed, words = rule
    if not allowed(value):
        raise UserError(f"--{name.replace('_', '-')} must be {words}, not {value}.")


def distinct(name: str, values: tuple[Any, ...]) -> None:
    """Refuse a list that is empty or names something twice.

    Raises:
        UserError: It does; the text names the option.
    """
    if not values or len(set(values)) < len(values):
        raise UserError(f"--{name} must be one or more different values.")


def seeds(name: str, values: tuple[int, ...]) -> None:
    """Refuse a list of seeds that is empty, repeats one or has one outside [0, 2**32).

    Raises:
        UserError: They are; the text names the option.
    """
    distinct(name, values)
    for value in values:
        check(name, value, SEED)


def among(name: str, values: Collection[str], known: Collection[str]) -> None:
    """Refuse a list of names that is empty or has an unknown one.

    Raises:
        UserError: It does; the text names the option, the unknown names and the known ones.
    """
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        raise UserError(
            f"--{name} must be among {', '.join(map(repr, known))}, not "
            f"{', '.join(map(repr, unknown)) or 'none'}."
        )


def command(program: str, **options: Any) -> str:
    """Write out the command that made a file.

    Args:
        program: Name of the module.
        **options: Its options; those that are None are left out.

    Returns:
        The command line, what is a tuple in quotes.
    """

    def words(value: Any) -> str:
        return " ".join(f'"{v}"' for v in value) if isinstance(value, tuple) else str(value)

    given = {name.replace("_", "-"): words(v) for name, v in options.items() if v is not None}
    return " ".join([f"python -m {program}", *(f"--{name} {v}" for name, v in given.items())])
