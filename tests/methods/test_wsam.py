"""WSAM between the base optimizer and beyond SAM."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import xsam_jax
from tests import quadratic


def _update(tx: optax.GradientTransformationExtraArgs) -> chex.ArrayTree:
    matrix, _ = quadratic.hessian([5.0, 3.0, 1.0, 0.5, -1.0])
    params, gradient = quadratic.start(5), quadratic.grad_fn(matrix)
    return tx.update(gradient(params), tx.init(params), params, grad_fn=gradient)[0]


@pytest.mark.parametrize("gamma", [0, 0.2, 0.5, 0.8])
def test_direction_is_a_line_through_the_two_gradients(gamma: float) -> None:
    """``g + a (g_adv - g)``: the base optimizer's at gamma = 0, SAM's at 1/2."""
    g = quadratic.flat(_update(xsam_jax.sam(rho=0.0)))
    g_adv = quadratic.flat(_update(xsam_jax.sam(rho=0.3)))
    direction = quadratic.flat(_update(xsam_jax.wsam(rho=0.3, gamma=gamma)))
    expected = g + gamma / (1 - gamma) * (g_adv - g)
    np.testing.assert_allclose(direction, expected, rtol=1e-12)


def test_a_traced_gamma_out_of_range_gives_nan() -> None:
    directions = lambda gamma: quadratic.flat(_update(xsam_jax.wsam(gamma=gamma)))
    gammas = jnp.array([0.5, -5e-7, 1 - 1e-7, -0.5, 1, 1 + 1e-7, 1 + 1e-6, 1.5, jnp.nan])
    for map_of in (jax.vmap, lambda f: jax.jit(jax.vmap(f))):
        found = map_of(directions)(gammas)
        np.testing.assert_array_equal(np.isfinite(found).all(axis=1), [True] * 3 + [False] * 6)
        # By rounding below 0, which is the base optimizer.
        base = quadratic.flat(_update(xsam_jax.wsam(gamma=0)))
        np.testing.assert_allclose(found[1], base, rtol=1e-12)


@pytest.mark.parametrize("gamma", [0, 0.2, 0.8])
def test_with_plain_descent_coupled_and_decoupled_are_one(gamma: float) -> None:
    coupled = optax.chain(xsam_jax.wsam(rho=0.3, gamma=gamma), optax.sgd(0.1))
    decoupled = xsam_jax.wsam_decoupled(optax.sgd(0.1), 0.1, rho=0.3, gamma=gamma)
    chex.assert_trees_all_close(_update(decoupled), _update(coupled), rtol=1e-12)


@pytest.mark.parametrize("bad_steps", [[0], [1, 3], [0, 1, 2]])
def test_after_bad_steps_both_learning_rates_are_of_the_same_count(bad_steps: list[int]) -> None:
    """With plain descent the update is that of the coupled form at the base's learning rate."""
    matrix, _ = quadratic.hessian([5.0, 3.0, 1.0, 0.5, -1.0])
    gradient, params = quadratic.grad_fn(matrix), quadratic.start(5)
    rate = lambda count: jnp.array([1.0, 0.5, 0.2, 0.1, 0.0])[jnp.minimum(count, 4)]
    tx = xsam_jax.wsam_decoupled(optax.sgd(rate), rate, rho=0.3, gamma=0.8)
    direction = quadratic.flat(_update(xsam_jax.wsam(rho=0.3, gamma=0.8)))

    def step(state: xsam_jax.WSAMDecoupledState, bad: chex.Array) -> tuple[Any, chex.ArrayTree]:
        grads = jax.tree.map(lambda g: jnp.where(bad, jnp.nan, g), gradient(params))
        updates, state = tx.update(grads, state, params, grad_fn=gradient)
        return state, quadratic.flat(updates)

    bad = jnp.zeros(7, bool).at[jnp.array(bad_steps)].set(True)
    state, updates = jax.lax.scan(step, tx.init(params), bad)
    rates = jax.vmap(rate)(jnp.cumsum(~bad) - 1)
    expected = jnp.where(bad[:, None], jnp.nan, jnp.outer(-rates, direction))
    np.testing.assert_allclose(updates, expected, rtol=1e-6, atol=1e-12)
    assert state.count == 7
    assert state.base_count == 7 - len(bad_steps)
