"""Hyperparameters whose number is known when the step runs, or that are arrays."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import xsam_jax
from xsam_jax import _hyperparameters


@pytest.mark.parametrize("low", [0.0, 0.5])
def test_a_traced_schedule_is_nan_outside_its_interval(low: float) -> None:
    schedule = _hyperparameters.schedule("x", lambda x: x, low, 2.0)
    inside = jnp.array([low - 1e-6, low, 1.5, 2.0, 2 + 1e-6])
    outside = jnp.array([low - 1.1e-6, low - 1, 2 + 1.1e-6, 4.0, jnp.inf, -jnp.inf, jnp.nan])
    # What rounding has put beside a bound is the bound, traced or not.
    expected = jnp.clip(inside, low, 2.0)
    np.testing.assert_array_equal(jax.vmap(schedule)(inside), expected)
    np.testing.assert_array_equal([schedule(x) for x in inside], expected)
    assert jnp.isnan(jax.vmap(schedule)(outside)).all()
    unbounded = _hyperparameters.schedule("x", lambda x: x)
    assert jnp.isnan(jax.vmap(unbounded)(jnp.array([jnp.inf, jnp.nan, -0.1]))).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("ends", ["[]", "[)", "(]", "()"])
def test_an_open_end_is_open_and_a_closed_one_forgives_rounding(ends: str, dtype: Any) -> None:
    """Of a traced number, and of a concrete array, which raises in NaN's place."""
    low, high = 0.0, 1.0
    beside = np.array([-5e-7, 0.0, 1e-30, 0.5, 1 - 6e-8, 1.0, 1 + 1.2e-7, 1 + 5e-7], dtype)
    outside = [ends[0] == "("] * 2 + [False] * 3 + [ends[1] == ")"] * 3
    expected = np.where(outside, np.nan, np.clip(beside, low, high))
    constant = lambda x: _hyperparameters.constant("x", x, low, high, ends)
    for map_of in (jax.vmap, lambda f: jax.jit(jax.vmap(f))):
        np.testing.assert_array_equal(map_of(constant)(jnp.asarray(beside)), expected)
    for x, out, right in zip(beside, outside, expected, strict=True):
        with pytest.raises(ValueError, match="x must be") if out else nullcontext():
            assert constant(jnp.asarray(x)) == right


def test_a_bound_has_the_derivative_of_the_inside() -> None:
    for x in (0.0, 0.5, 2.0):
        assert jax.grad(lambda x: _hyperparameters.schedule("x", x, 0.0, 2.0)(0))(x) == 1
        assert jax.grad(lambda x: _hyperparameters.constant("x", x, 0.0, 2.0))(x) == 1


@pytest.mark.parametrize("compiled", [False, True])
def test_an_injected_schedule_that_ends_at_a_bound_by_rounding(compiled: bool) -> None:
    g = jnp.array([3.0, 4.0])
    tx = optax.inject_hyperparams(xsam_jax.friendly_sam)(
        rho=lambda count: jnp.where(count < 1, 0.1, -1e-9),
        decay=lambda count: jnp.where(count < 1, 0.1, 1 + 1e-9),
    )
    step = lambda state: tx.update(g, state, g, grad_fn=lambda w: 2 * w)
    step = jax.jit(step) if compiled else step
    state = tx.init(g)
    for _ in range(2):
        found, state = step(state)
    np.testing.assert_array_equal(found, 2 * g)


@pytest.mark.parametrize("ends", ["[]", "()"])
def test_a_traced_constant_is_nan_outside_its_interval(ends: str) -> None:
    constant = lambda x: _hyperparameters.constant("x", x, 0.5, 2.0, ends=ends)
    found = jax.vmap(constant)(jnp.array([0.4, 0.6, 2.1, jnp.nan]))
    np.testing.assert_array_equal(jnp.isnan(found), [True, False, True, True])
    # A number of NumPy's would be as precise as itself in what it is multiplied with.
    for value in (np.float64(1.5), jnp.array(1.5), 1.5):
        assert type(constant(value)) is float


# What may be traced and has no number to check, with a value out of its range and a good one.
# An open end is out of it.
CONSTANTS: list[tuple[Callable[[Any], Any], float, float]] = [
    (lambda x: xsam_jax.friendly_sam(decay=x), 1.5, 0.8),
    (lambda x: xsam_jax.wsam_decoupled(optax.sgd(0.1, 0.9), 0.1, gamma=x), 1.0, 0.5),
    *(
        (lambda x, method=method, of=of: method(eigenvector=of(x)), bad, 0.5)
        for method in (xsam_jax.xsam, xsam_jax.eigen_sam)
        for of, bad in (
            (lambda x: xsam_jax.oja(rate=x), -0.5),
            (lambda x: xsam_jax.oja(rate=x), 0.0),
            (lambda x: xsam_jax.subspace(ridge=x), 0.0),
            (lambda x: xsam_jax.subspace(decay=x), 0.0),
            (lambda x: xsam_jax.subspace(decay=x), 1.0),
        )
    ),
]


@pytest.mark.parametrize(("make", "bad", "good"), CONSTANTS)
def test_a_bad_traced_constant_is_a_bad_step(
    make: Callable[[Any], Any], bad: float, good: float
) -> None:
    """Its direction is not a number, and the state is the one before."""
    matrix = jnp.diag(jnp.array([3.0, 2.0, 1.0]))
    params = jnp.array([1.0, -2.0, 3.0])

    def steps(value: Any) -> Any:
        tx = make(value)
        state = tx.init(params)
        for i in range(3):
            at = params + i
            direction, state = tx.update(matrix @ at, state, at, grad_fn=lambda w: matrix @ w)
        return direction, state

    directions, states = jax.vmap(steps)(jnp.array([bad, good, jnp.nan]))
    np.testing.assert_array_equal(jnp.isnan(directions).all(1), [True, False, True])
    chex.assert_trees_all_close((directions[1], jax.tree.map(lambda x: x[1], states)), steps(good))
    start = make(good).init(params)
    for lane in (0, 2):
        found = jax.tree.map(lambda x, lane=lane: x[lane], states)
        chex.assert_trees_all_equal(found, start._replace(count=jnp.array(3)))
