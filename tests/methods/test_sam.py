"""SAM and ASAM."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import xsam_jax
from tests import quadratic

SPECTRUM = [5.0, 3.0, 1.0, 0.5, -1.0]


def _step(tx: optax.GradientTransformationExtraArgs, params: chex.ArrayTree, gradient):
    return tx.update(gradient(params), tx.init(params), params, grad_fn=gradient)[0]


def test_direction_is_the_gradient_at_the_perturbed_point() -> None:
    matrix, _ = quadratic.hessian(SPECTRUM)
    params = quadratic.start(5)
    w = quadratic.flat(params)
    g = matrix @ w
    direction = _step(xsam_jax.sam(rho=0.3), params, quadratic.grad_fn(matrix))
    np.testing.assert_allclose(
        quadratic.flat(direction), matrix @ (w + 0.3 * g / jnp.linalg.norm(g)), rtol=1e-12
    )


@pytest.mark.parametrize("adaptive", [False, True])
def test_rho_zero_is_the_base_optimizer_bit_for_bit(adaptive: bool) -> None:
    matrix, _ = quadratic.hessian(SPECTRUM)
    params = quadratic.start(5)
    gradient = quadratic.grad_fn(matrix)
    direction = _step(xsam_jax.sam(rho=0.0, adaptive=adaptive), params, gradient)
    chex.assert_trees_all_equal(direction, gradient(params))


def test_perturbation_is_the_highest_point_of_the_ball_to_first_order() -> None:
    # With the identity as Hessian the direction tells the perturbation: e = direction - w.
    params = quadratic.start(5)
    direction = _step(xsam_jax.sam(rho=0.7), params, quadratic.grad_fn(jnp.eye(5)))
    g = quadratic.flat(params)
    e = quadratic.flat(direction) - g
    np.testing.assert_allclose(e @ g, 0.7 * jnp.linalg.norm(g), rtol=1e-12)
    np.testing.assert_allclose(jnp.linalg.norm(e), 0.7, rtol=1e-12)


def test_gradient_scale_does_not_move_the_perturbation() -> None:
    params = quadratic.start(5)
    directions = []
    for scale in (1.0, 1e-100, 1e100):
        matrix, _ = quadratic.hessian([scale * x for x in SPECTRUM])
        direction = _step(xsam_jax.sam(rho=0.3), params, quadratic.grad_fn(matrix))
        directions.append(jax.tree.map(lambda x, s=scale: x / s, direction))
    chex.assert_trees_all_close(directions[0], directions[1], directions[2], rtol=1e-10)


def test_adaptive_is_invariant_to_rescaling_of_parameters() -> None:
    # ASAM's reason to be: with w = s * z for any s, the loss after ascent is the same.
    matrix, _ = quadratic.hessian(SPECTRUM)
    s = quadratic.tree(jnp.array([2.0, 0.1, 5.0, 1.0, 0.3]))
    w = quadratic.start(5)
    z = jax.tree.map(jnp.divide, w, s)
    gradient = quadratic.grad_fn(matrix)

    def rescaled(z: chex.ArrayTree) -> chex.ArrayTree:
        at_w = gradient(jax.tree.map(jnp.multiply, s, z))
        return jax.tree.map(jnp.multiply, s, at_w)

    tx = xsam_jax.sam(rho=0.4, adaptive=True)
    expected = jax.tree.map(jnp.multiply, s, _step(tx, w, gradient))
    chex.assert_trees_all_close(_step(tx, z, rescaled), expected, rtol=1e-12)


def test_rho_may_be_a_schedule() -> None:
    matrix, _ = quadratic.hessian(SPECTRUM)
    gradient, params = quadratic.grad_fn(matrix), quadratic.start(5)
    tx = xsam_jax.sam(rho=lambda count: jnp.where(count < 2, 0.5, 0.05))
    state = tx.init(params)
    for expected in (0.5, 0.5, 0.05):
        direction, state = tx.update(gradient(params), state, params, grad_fn=gradient)
        chex.assert_trees_all_close(
            direction, _step(xsam_jax.sam(rho=expected), params, gradient), rtol=1e-6
        )


def test_rho_may_be_a_schedule_of_integers() -> None:
    matrix, _ = quadratic.hessian(SPECTRUM)
    gradient, params = quadratic.grad_fn(matrix), quadratic.start(5)
    tx = xsam_jax.sam(rho=lambda count: count // 2)
    step = jax.jit(lambda state: tx.update(gradient(params), state, params, grad_fn=gradient))
    state = tx.init(params)
    for expected in (0.0, 0.0, 1.0, 1.0, 2.0):
        direction, state = step(state)
        chex.assert_trees_all_close(
            direction, _step(xsam_jax.sam(rho=expected), params, gradient), rtol=1e-12
        )


def test_bfloat16_norm_accumulates_in_float32() -> None:
    # In bfloat16 the sum of squares of 65536 ones stops at 256, its root at 16 and not at 256.
    params = jnp.zeros(65536, jnp.bfloat16)
    direction = _step(xsam_jax.sam(rho=256.0), params, lambda w: w + jnp.ones_like(w))
    assert direction.dtype == jnp.bfloat16
    np.testing.assert_array_equal(direction.astype(jnp.float32), 2.0)
