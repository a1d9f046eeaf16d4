"""The sets of values that arguments are taken from, at their bounds."""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xsam_jax
from xsam_jax import _checks
from xsam_jax._hyperparameters import constant, schedule

KEY = jax.random.key(0)


def interval(value: Any) -> None:
    _checks.number("x", value, 0.0, 2.0)


def above(value: Any) -> None:
    _checks.number("x", value, 1.0)


def count(value: Any) -> None:
    _checks.integer("x", value, low=1)


def positive(value: Any) -> None:
    constant("x", value, low=0.0, ends="()")


def key(value: Any) -> None:
    _checks.key("x", value)


def axis(value: Any) -> None:
    _checks.axis_name(value)


def choice(value: Any) -> None:
    _checks.choice("x", value, ("a", "bc"))


def scheduled(value: Any) -> None:
    schedule("x", lambda _: value, 0.0, 2.0)(0)


ALLOWED: list[tuple[Callable[[Any], None], list[Any]]] = [
    (interval, [0, 2, 0.0, 2.0, 1, np.float32(2), np.array(1), jnp.array(2.0), np.int8(0)]),
    (above, [1, 1.0, 10**300, 1e308]),
    (count, [1, 2, np.int64(1), np.uint8(7)]),
    (positive, [5e-324, 1, 1e308, jnp.array(0.5)]),
    (key, [KEY, jax.random.PRNGKey(0)]),
    (axis, [None, "data", ("data",), ("data", "model")]),
    (choice, ["a", "bc"]),
    (scheduled, [0, 2, -1e-6, 2 + 1e-6, np.float64(-1e-7)]),
]
REFUSED: list[tuple[Callable[[Any], None], list[Any]]] = [
    (interval, [-1e-9, 2.000001, -1, 3, math.nan, math.inf, -math.inf]),
    (above, [1 - 1e-9, 0, -2, math.inf, 10**400]),
    (count, [0, -1, np.int64(0)]),
    (positive, [0, 0.0, -1e-300, -1, jnp.array(0.0)]),
    (choice, ["", "b", "c", "abc", None, 1]),
    (scheduled, [-1.1e-6, 2 + 1.1e-6, -0.5, 2.5]),
]
MISTYPED: list[tuple[Callable[[Any], None], list[Any]]] = [
    (interval, [True, np.bool_(1), 1j, "1", None, np.ones(1), jnp.ones(1), np.ones(()) > 0]),
    (count, [1.0, True, "1", np.float64(1), jnp.array(1), None]),
    (
        key,
        [
            jax.random.split(KEY),
            jax.random.split(jax.random.PRNGKey(0)),
            np.zeros(2, np.uint8),
            np.zeros(2, np.uint64),
            np.zeros(2, np.int32),
            np.uint32(0),
            None,
            0,
        ],
    ),
    (axis, [0, (), ("data", 0), ["data"], (None,)]),
]


def cases(table: list[tuple[Callable[[Any], None], list[Any]]]) -> pytest.MarkDecorator:
    rows = [(check, value) for check, values in table for value in values]
    ids = [f"{check.__name__}-{i}" for i, (check, _) in enumerate(rows)]
    return pytest.mark.parametrize(("check", "value"), rows, ids=ids)


@cases(ALLOWED)
def test_allowed(check: Callable[[Any], None], value: Any) -> None:
    check(value)


@cases(REFUSED)
def test_refused(check: Callable[[Any], None], value: Any) -> None:
    with pytest.raises(ValueError, match=r"must be .*, got "):
        check(value)


@cases(MISTYPED)
def test_mistyped(check: Callable[[Any], None], value: Any) -> None:
    with pytest.raises(TypeError, match=r"must be .*, got "):
        check(value)


@pytest.mark.parametrize("alpha", [np.uint8(1), jnp.uint32(1), lambda _: jnp.uint32(1)])
def test_unsigned_integers_are_numbers(alpha: Any) -> None:
    g = jnp.array([3.0, 4.0])
    for make in (xsam_jax.gsam, lambda alpha: xsam_jax.friendly_sam(sigma=alpha)):
        state = make(1.0).init(g)
        found, expected = (
            make(value).update(g, state, g, grad_fn=lambda w: w**2)[0] for value in (alpha, 1.0)
        )
        np.testing.assert_array_equal(found, expected)


def test_ends_of_a_constant_s_interval() -> None:
    for ends in ("[]", "[)", "(]", "()"):
        for value, end in ((0.5, ends[0]), (2.0, ends[1]), (1.0, "[")):
            if end in "[]":
                assert constant("x", value, 0.5, 2.0, ends) == value
                continue
            allowed = re.escape(f"{ends[0]}0.5, 2{ends[1]}")
            with pytest.raises(ValueError, match=f"x must be a number in {allowed}, got "):
                constant("x", value, 0.5, 2.0, ends)
    with pytest.raises(ValueError, match="x must be a number > 0, got 0"):
        constant("x", 0, 0.0, ends="()")


def test_a_schedule_of_integers_is_float32() -> None:
    found = jax.vmap(schedule("x", lambda count: count))(jnp.arange(3))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, [0, 1, 2])


@pytest.mark.parametrize("high", [2.0, math.inf])
def test_the_error_names_the_interval(high: float) -> None:
    interval = r"a number >= 1, " if high == math.inf else r"a number in \[1, 2\], "
    with pytest.raises(ValueError, match=f"x must be {interval}got -3"):
        _checks.number("x", -3, 1.0, high)
