"""Oja's rule on the two gradients."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xsam_jax
from tests import quadratic


def _track(
    spectrum: list[float], steps: int, rate: float = 0.3, tx_fn: Callable[..., Any] = xsam_jax.xsam
) -> tuple[Any, chex.Array]:
    """Track while the parameters are drawn anew at each step, as mini-batches would move g."""
    matrix, vectors = quadratic.hessian(spectrum)
    gradient = quadratic.grad_fn(matrix)
    tx = tx_fn(eigenvector=xsam_jax.oja(rate))
    points = np.random.default_rng(0).normal(size=(steps, len(spectrum)))

    def step(state: Any, w: chex.Array) -> tuple[Any, Any]:
        params = quadratic.tree(w)
        _, state = tx.update(gradient(params), state, params, grad_fn=gradient)
        return state, state

    start = tx.init(quadratic.start(len(spectrum)))
    _, states = jax.jit(lambda: jax.lax.scan(step, start, jnp.asarray(points)))()
    return states, vectors


@pytest.mark.parametrize("tx_fn", [xsam_jax.xsam, xsam_jax.eigen_sam])
@pytest.mark.parametrize("others", [[1.0, 0.5, 0.2, -0.1], [-8.0, 1.0, 0.5, 0.2]])
def test_finds_the_largest_eigenvalue(tx_fn: Callable[..., Any], others: list[float]) -> None:
    # In the second case one of the same magnitude is negative.
    states, vectors = _track([8.0, *others], 400, tx_fn=tx_fn)
    cosines = jnp.abs(quadratic.flat_steps(states.eigenvector) @ vectors[:, 0])
    assert jnp.mean(cosines[100:]) > 0.98
    np.testing.assert_allclose(jnp.mean(states.eigenvalue[200:]), 8.0, rtol=0.1)


def test_first_step_is_one_power_iteration_on_the_gradient() -> None:
    matrix, _ = quadratic.hessian([3.0, 2.0, 1.0])
    params, gradient = quadratic.start(3), quadratic.grad_fn(matrix)
    tx = xsam_jax.xsam(rho=0.1, eigenvector=xsam_jax.oja())
    _, state = tx.update(gradient(params), tx.init(params), params, grad_fn=gradient)
    g = matrix @ quadratic.flat(params)
    expected = matrix @ g / jnp.linalg.norm(matrix @ g)
    np.testing.assert_allclose(quadratic.flat(state.eigenvector), expected, rtol=1e-9)


@pytest.mark.parametrize("spectrum", [[3.0, 2.0, 1.0], [-3.0, -2.0, -1.0]])
def test_rule(spectrum: list[float]) -> None:
    """The rule by hand: v <- normalize(v + rate <x, v> h)."""
    matrix, _ = quadratic.hessian(spectrum)
    params, gradient = quadratic.start(3), quadratic.grad_fn(matrix)
    tx = xsam_jax.xsam(eigenvector=xsam_jax.oja(rate=0.7))
    v = quadratic.start(3, seed=5)
    v = jax.tree.map(lambda leaf: leaf / jnp.linalg.norm(quadratic.flat(v)), v)
    state = tx.init(params)._replace(eigenvector=v, eigenvalue=jnp.float32(1.5))
    _, state = tx.update(gradient(params), state, params, grad_fn=gradient)
    g = matrix @ quadratic.flat(params)
    x = g / jnp.linalg.norm(g)
    h, v = matrix @ x, quadratic.flat(v)
    new = v + 0.7 * (x @ v) * h / jnp.linalg.norm(h)
    np.testing.assert_allclose(
        quadratic.flat(state.eigenvector), new / jnp.linalg.norm(new), rtol=1e-9
    )
    value = 1.5 + 0.7 * (x @ v) * (v @ h - 1.5 * (x @ v))
    np.testing.assert_allclose(state.eigenvalue, value, rtol=1e-6)


@pytest.mark.parametrize("spectrum", [[3.0, 2.0, 1.0], [-3.0, -2.0, -1.0], [3.0, -2.9, 0.1]])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_first_value_is_the_curvature_along_the_gradient(
    spectrum: list[float], dtype: Any
) -> None:
    matrix, _ = quadratic.hessian(spectrum)
    gradient = quadratic.grad_fn(matrix)

    def first(w: chex.Array) -> chex.Array:
        params = quadratic.tree(w, dtype)
        tx = xsam_jax.xsam(rho=0.5, eigenvector=xsam_jax.oja())
        return tx.update(gradient(params), tx.init(params), params, grad_fn=gradient)[1].eigenvalue

    points = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3)))
    found = jax.jit(jax.vmap(first))(points)
    x = points @ matrix
    x /= jnp.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(found, jnp.sum(x @ matrix * x, axis=1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(first(points[0]), found[0], rtol=1e-4, atol=1e-4)


def test_of_directions_that_gradients_visit_one_at_a_time_it_finds_the_most_frequent() -> None:
    """Not the one of the largest eigenvalue: the docstring's operator, with all its eigenvalues."""
    matrix = jnp.diag(jnp.array([10.0, 1.0, 0.5]))
    rng = np.random.default_rng(0)
    x = np.eye(3)[rng.choice(2, size=2000, p=[0.3, 0.7])] + 0.02 * rng.normal(size=(2000, 3))
    gradient = quadratic.grad_fn(matrix)
    tx = xsam_jax.xsam(eigenvector=xsam_jax.oja())

    def step(state: Any, x: chex.Array) -> tuple[Any, chex.Array]:
        params = quadratic.tree(jnp.linalg.solve(matrix, x))
        _, state = tx.update(gradient(params), state, params, grad_fn=gradient)
        return state, quadratic.flat(state.eigenvector)

    start = tx.init(quadratic.start(3))
    _, vectors = jax.jit(lambda: jax.lax.scan(step, start, jnp.asarray(x)))()
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    images = x @ np.asarray(matrix)
    operator = images.T @ (x / np.linalg.norm(images, axis=1, keepdims=True)) / len(x)
    values, directions = np.linalg.eig(operator)
    leading = np.real(directions[:, np.argmax(values)])
    assert abs(leading[1]) > 0.99
    assert jnp.mean(jnp.abs(vectors[200:] @ leading)) > 0.95


def test_a_vector_that_is_cancelled() -> None:
    """With H = -1, rate 1 and v along x nothing but rounding errors is left of v + <x, v> h."""
    gradient = quadratic.grad_fn(-jnp.eye(5))
    tx = xsam_jax.xsam(eigenvector=xsam_jax.oja(rate=1.0))

    def step(w: chex.Array) -> Any:
        v = quadratic.tree(w / jnp.linalg.norm(w))
        params = quadratic.tree(w)
        state = tx.init(params)._replace(eigenvector=v, eigenvalue=jnp.float32(-1))
        return tx.update(gradient(params), state, params, grad_fn=gradient)

    points = jnp.asarray(np.random.default_rng(0).normal(size=(100, 5)))
    chex.assert_tree_all_finite(jax.jit(jax.vmap(step))(points))


def test_takes_no_hessian_product() -> None:
    # A gradient without a forward derivative is enough.
    @jax.custom_vjp
    def identity(w: chex.ArrayTree) -> chex.ArrayTree:
        return w

    identity.defvjp(lambda w: (w, None), lambda _, g: (g,))
    params = quadratic.start(3)
    tx = xsam_jax.xsam(eigenvector=xsam_jax.oja())
    _, state = tx.update(params, tx.init(params), params, grad_fn=identity)
    np.testing.assert_allclose(state.eigenvalue, 1.0, rtol=1e-6)


def test_zero_radius_keeps_the_vector() -> None:
    matrix, _ = quadratic.hessian([3.0, 2.0, 1.0])
    params, gradient = quadratic.start(3), quadratic.grad_fn(matrix)
    tx = xsam_jax.xsam(rho=lambda count: jnp.where(count < 1, 0.1, 0.0), eigenvector=xsam_jax.oja())
    _, first = tx.update(gradient(params), tx.init(params), params, grad_fn=gradient)
    _, second = tx.update(gradient(params), first, params, grad_fn=gradient)
    chex.assert_trees_all_close(first.eigenvector, second.eigenvector, rtol=1e-12)
    np.testing.assert_allclose(first.eigenvalue, second.eigenvalue, rtol=1e-6)
