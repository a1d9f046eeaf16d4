"""Hyperparameters: numbers and schedules, checked when they are given and in each step."""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import chex
import jax
import jax.numpy as jnp

from xsam_jax._checks import number

Schedule = Callable[[chex.Numeric], chex.Numeric]
ScalarOrSchedule: TypeAlias = float | chex.Array | Schedule
"""A number, which may be traced, or an optax schedule, ``count -> number``."""

# What rounding may make of a schedule that ends at a bound.
_TOLERANCE = 1e-6


def schedule(
    name: str, value: ScalarOrSchedule, low: float = 0.0, high: float = math.inf
) -> Schedule:
    """Makes a hyperparameter a function of the step count, checked now and in each step.

    What is only known when the step runs cannot raise: out of range it becomes NaN, and with it the
    step's direction. What rounding has put beside a bound is the bound.
    """
    if not callable(value):
        number(name, value, low, high, _tolerance(value))

    def checked(count: chex.Numeric) -> chex.Numeric:
        result = value(count) if callable(value) else value
        tolerance = _TOLERANCE if callable(value) else _tolerance(value)
        number(f"the value of the schedule {name}", result, low, high, tolerance)
        if isinstance(result, jax.core.Tracer):
            return _or_nan(result, low, high)
        size = min(max(float(result), low), high)
        # An unsigned integer has no negative.
        floating = jnp.issubdtype(jnp.result_type(result), jnp.floating)
        return result if floating and size == float(result) else size

    return checked


def constant(name: str, value: Any, low: float, high: float = math.inf, ends: str = "[]") -> Any:
    """Checks a hyperparameter that cannot be a schedule, and returns it as a number.

    Out of range a traced one becomes NaN, as in `schedule`, and so it does at an open end.
    """
    number(name, value, low, high, _tolerance(value), ends)
    if isinstance(value, jax.core.Tracer):
        return _or_nan(value, low, high, ends)
    # A NumPy number would make what it is multiplied with as precise as itself.
    return min(max(float(value), low), high)


def nan_with(schedule: Schedule, *constants: Any) -> Schedule:
    """Makes a schedule NaN where one of the `constant` hyperparameters is, being out of range."""
    traced = [value for value in constants if isinstance(value, jax.core.Tracer)]
    if not traced:
        return schedule

    def checked(count: chex.Numeric) -> chex.Numeric:
        lost = functools.reduce(operator.or_, map(jnp.isnan, traced))
        return jnp.where(lost, jnp.nan, schedule(count))

    return checked


def _tolerance(value: Any) -> float:
    """How far rounding may move an array of `optax.inject_hyperparams` out of its bounds."""
    return _TOLERANCE if isinstance(value, jax.Array) else 0.0


def _or_nan(value: chex.Array, low: float, high: float, ends: str = "[]") -> chex.Array:
    """Clips a number that misses a closed bound by rounding; any other out of range becomes NaN."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        value = value.astype(jnp.float32)
    above = value > low if ends[0] == "(" else value >= low - _TOLERANCE
    below = value < high if ends[1] == ")" else value <= high + _TOLERANCE
    inside = above & below & jnp.isfinite(value)
    # Not by jnp.clip, whose derivative at a bound is a half.
    value = jnp.where(value < low, low, value)
    return jnp.where(
        inside, value if high == math.inf else jnp.where(value > high, high, value), jnp.nan
    )
