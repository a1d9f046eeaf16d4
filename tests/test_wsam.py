"""WSAM between the base optimizer and beyond SAM."""

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
    directions = jax.vmap(lambda gamma: quadratic.flat(_update(xsam_jax.wsam(gamma=gamma))))
    found = np.isfinite(directions(jnp.array([0.5, -0.5, 1.5, jnp.nan]))).all(axis=1)
    np.testing.assert_array_equal(found, [True, False, False, False])


@pytest.mark.parametrize("gamma", [0, 0.2, 0.8])
def test_with_plain_descent_coupled_and_decoupled_are_one(gamma: float) -> None:
    coupled = optax.chain(xsam_jax.wsam(rho=0.3, gamma=gamma), optax.sgd(0.1))
    decoupled = xsam_jax.wsam_decoupled(optax.sgd(0.1), 0.1, rho=0.3, gamma=gamma)
    chex.assert_trees_all_close(_update(decoupled), _update(coupled), rtol=1e-12)
