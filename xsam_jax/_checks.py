"""Checks of arguments, with errors that name the argument, its value and what is allowed."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np

Schedule = Callable[[chex.Numeric], chex.Numeric]
ScalarOrSchedule: TypeAlias = float | chex.Array | Schedule


def schedule(
    name: str, value: ScalarOrSchedule, low: float = 0.0, high: float = math.inf
) -> Schedule:
    """A checked hyperparameter as a function of the step count; a schedule is one already."""
    if callable(value):
        return value
    number(name, value, low, high)
    return lambda count: value


def number(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raises unless ``value`` is a finite real scalar in ``[low, high]``.

    A traced one (`optax.inject_hyperparams`, `jax.vmap` over a hyperparameter) has no value to
    check.
    """
    if isinstance(value, jax.core.Tracer):
        return
    allowed = f"a number >= {low:g}" if high == math.inf else f"a number in [{low:g}, {high:g}]"
    if isinstance(value, bool) or not (
        isinstance(value, (int, float, np.ndarray, np.generic, jax.Array))
        and np.ndim(value) == 0
        and np.issubdtype(jnp.result_type(value), np.number)
    ):
        raise TypeError(f"{name} must be {allowed}, got {value!r}")
    if not (math.isfinite(value) and low <= float(value) <= high):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def positive(name: str, value: Any) -> None:
    """Raises unless ``value`` is a finite real scalar > 0."""
    number(name, value, low=0)
    if value == 0:
        raise ValueError(f"{name} must be a number > 0, got {value!r}")


def integer(name: str, value: Any, low: int) -> None:
    """Raises unless ``value`` is an integer >= ``low``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer >= {low}, got {value!r}")
    if value < low:
        raise ValueError(f"{name} must be an integer >= {low}, got {value!r}")


def boolean(name: str, value: Any) -> None:
    """Raises unless ``value`` is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def instance(name: str, value: Any, cls: type, allowed: str) -> None:
    """Raises unless ``value`` is a ``cls``."""
    if not isinstance(value, cls):
        raise TypeError(f"{name} must be {allowed}, got {value!r}")


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raises unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        options = " or ".join(repr(option) for option in allowed)
        raise ValueError(f"{name} must be {options}, got {value!r}")


def real(name: str, tree: Any) -> None:
    """Raises unless all leaves of ``tree`` are real floating-point arrays."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
            raise TypeError(
                f"{name} must be real floating-point arrays, got {jax.typeof(leaf)} at "
                f"{jax.tree_util.keystr(path) or 'the root'}: leave such leaves out (optax.masked)"
            )


def same_tree(name: str, tree: Any, like: Any) -> None:
    """Raises unless ``tree`` has the structure and shapes of ``like``, the parameters."""
    structure: Any = jax.tree.structure(tree)
    expected: Any = jax.tree.structure(like)
    if structure != expected:
        raise ValueError(
            f"{name} must have the tree structure of params, {expected}, got {structure}"
        )
    for (path, leaf), (_, target) in zip(
        jax.tree.leaves_with_path(tree), jax.tree.leaves_with_path(like), strict=True
    ):
        if jnp.shape(leaf) != jnp.shape(target):
            raise ValueError(
                f"{name} must have the shapes of params: at {jax.tree_util.keystr(path)} "
                f"{jnp.shape(target)} is expected, got {jnp.shape(leaf)}"
            )
