"""The tracker that fits a subspace to the two gradients."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xsam_jax
from tests import quadratic
from xsam_jax._trackers import subspace


def _points(size: int, steps: int) -> chex.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(steps, size)))


def _track(
    matrices: chex.Array, points: chex.Array, tx_fn: Callable[..., Any] = xsam_jax.xsam, **kw: Any
) -> Any:
    """Track through steps with a matrix and a point each; return the states."""
    matrices = jnp.broadcast_to(matrices, (len(points), *matrices.shape[-2:]))
    return _states(tx_fn, tuple(kw.items()))(matrices, points)


@functools.cache
def _states(tx_fn: Callable[..., Any], options: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    tx = tx_fn(eigenvector=xsam_jax.subspace(**dict(options)))

    def step(state: Any, at: tuple[chex.Array, chex.Array]) -> tuple[Any, Any]:
        matrix, w = at
        gradient, params = quadratic.grad_fn(matrix), quadratic.tree(w)
        _, state = tx.update(gradient(params), state, params, grad_fn=gradient)
        return state, state

    @jax.jit
    def run(matrices: chex.Array, points: chex.Array) -> Any:
        start = tx.init(quadratic.tree(points[0]))
        return jax.lax.scan(step, start, (matrices, points))[1]

    return run


def _reference(
    matrix: np.ndarray, points: np.ndarray, size: int, decay: float, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the docstring's equations with dense matrices: eigenvectors as rows, eigenvalues."""
    basis = np.zeros((len(matrix), 0))
    responses = covariance = np.zeros((0, 0))
    value, vectors, values = 0.0, [], []
    for w in points:
        g = matrix @ w
        x = g / np.linalg.norm(g)
        h = matrix @ x / np.linalg.norm(matrix @ x)
        if (k := basis.shape[1]) < size:
            rest = h - basis @ (basis.T @ h)
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
            responses, covariance = (np.pad(a, ((0, 1), (0, 1))) for a in (responses, covariance))
            k += 1
        a = basis.T @ x
        n = decay * basis @ responses + np.outer(h, a)
        covariance = decay * covariance + np.outer(a, a)
        value += a[0] / covariance[0, 0] * (basis[:, 0] @ matrix @ x - value * a[0])
        m = n @ np.linalg.inv(covariance + ridge * np.trace(covariance) / size * np.eye(k))
        new, _ = np.linalg.qr(m)
        operator = new.T @ m @ (basis.T @ new)
        _, rotation = np.linalg.eigh(operator + operator.T)
        new = new @ rotation[:, ::-1]
        overlap = basis.T @ new
        responses, covariance = new.T @ n @ overlap, overlap.T @ covariance @ overlap
        basis = new
        vectors.append(basis[:, 0])
        values.append(value)
    return np.array(vectors), np.array(values)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("spectrum", [[5.0, 3.0, 1.0, -0.5, 0.3], [-4.0, 3.0, 2.5, 0.1, 1.0]])
def test_rule(spectrum: Sequence[float], size: int) -> None:
    matrix, _ = quadratic.hessian(spectrum)
    points = _points(len(spectrum), 40)
    states = _track(matrix, points, size=size, decay=0.9, ridge=0.2)
    vectors, values = _reference(np.asarray(matrix), np.asarray(points), size, 0.9, 0.2)
    found = quadratic.flat_steps(states.eigenvector)
    np.testing.assert_allclose(jnp.abs(jnp.sum(found * vectors, axis=1)), 1, rtol=1e-9)
    np.testing.assert_allclose(states.eigenvalue, values, rtol=1e-5)


@pytest.mark.parametrize("tx_fn", [xsam_jax.xsam, xsam_jax.eigen_sam])
@pytest.mark.parametrize("others", [[1.0, 0.5, 0.2, -0.1], [-8.0, 1.0, 0.5, 0.2], [7.5, 0.5, 0.1]])
def test_finds_the_largest_eigenvalue(tx_fn: Callable[..., Any], others: list[float]) -> None:
    matrix, _ = quadratic.hessian([8.0, *others])
    states = _track(matrix, _points(len(others) + 1, 400), tx_fn)
    found = quadratic.flat_steps(states.eigenvector)[100:]
    quality = jnp.einsum("ti,ij,tj->t", found, matrix, found) / 8.0
    assert jnp.mean(quality) > 0.98
    np.testing.assert_allclose(jnp.mean(states.eigenvalue[200:]), 8.0, rtol=0.1)


def test_half_the_error_of_oja_on_noisy_batches() -> None:
    """A Hessian with two close eigenvalues, and a different one every step around it."""
    matrix, _ = quadratic.hessian([4.0, 3.6, 1.0, 0.5, 0.2, 0.1, -0.3, 0.0])
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(600, 8, 8))
    matrices = matrix[None] + jnp.asarray(noise + noise.transpose(0, 2, 1)) / 3
    points = _points(8, 600)

    def error(tracker: Any) -> float:
        tx = xsam_jax.xsam(eigenvector=tracker)

        def step(state: Any, at: Any) -> tuple[Any, Any]:
            gradient, params = quadratic.grad_fn(at[0]), quadratic.tree(at[1])
            _, state = tx.update(gradient(params), state, params, grad_fn=gradient)
            return state, quadratic.flat(state.eigenvector)

        start = tx.init(quadratic.tree(points[0]))
        _, v = jax.jit(lambda: jax.lax.scan(step, start, (matrices, points)))()
        return 1 - float(jnp.mean(jnp.einsum("ti,ij,tj->t", v[100:], matrix, v[100:])) / 4.0)

    assert error(xsam_jax.subspace()) < error(xsam_jax.oja()) / 2


def _gram(states: Any) -> np.ndarray:
    """Compute the inner products of the basis' vectors with each other at every step."""
    trees = (states.eigenvector, *states.memory.others)
    basis = np.stack([quadratic.flat_steps(tree) for tree in trees])
    return np.einsum("itk,jtk->tij", basis, basis)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([5, 9]))
def test_the_basis_stays_orthonormal(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=size)
    matrix, _ = quadratic.hessian((normals + 0.1 * np.sign(normals)).tolist(), seed % 1000)
    states = _track(matrix, jnp.asarray(rng.normal(size=(60, size))))
    np.testing.assert_allclose(_gram(states)[4:], np.broadcast_to(np.eye(4), (56, 4, 4)), atol=1e-7)
    # The sign of an eigenvector is arbitrary, but not anew at every step.
    v = quadratic.flat_steps(states.eigenvector)
    assert jnp.all(jnp.sum(v[1:] * v[:-1], axis=1) >= 0)


def test_a_product_that_is_all_but_inside_the_basis() -> None:
    """Inner products resolve what is outside to the root of their own precision, no better."""
    matrix, _ = quadratic.hessian([-2.5, 0.9, 9e-3, 4e-3, 2e-3])
    states = _track(matrix, _points(5, 60))
    np.testing.assert_allclose(_gram(states)[4:], np.broadcast_to(np.eye(4), (56, 4, 4)), atol=1e-2)


def test_float32_for_ten_thousand_steps() -> None:
    matrix, _ = quadratic.hessian([8.0, 7.0, 1.0, 0.5, 0.2, 0.1])
    matrix = matrix.astype(jnp.float32)
    states = _track(matrix, _points(6, 10_000).astype(jnp.float32))
    last = jax.tree.map(lambda leaf: leaf[-100:], states)
    np.testing.assert_allclose(_gram(last), np.broadcast_to(np.eye(4), (100, 4, 4)), atol=1e-4)
    v = quadratic.flat_steps(last.eigenvector)
    assert jnp.mean(jnp.einsum("ti,ij,tj->t", v, matrix, v)) > 7.8


@pytest.mark.parametrize("spectrum", [[3.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
def test_degenerate_hessians(spectrum: list[float]) -> None:
    """Rank one, a multiple of the identity, and zero: never a NaN, and the right eigenvector."""
    matrix, _ = quadratic.hessian(spectrum)
    states = _track(matrix, _points(len(spectrum), 50))
    chex.assert_tree_all_finite(states)
    v = quadratic.flat_steps(states.eigenvector)
    if spectrum[0] == 0:
        assert not np.any(v)
    else:
        np.testing.assert_allclose(jnp.einsum("ti,ij,tj->t", v, matrix, v), spectrum[0], rtol=1e-9)
        np.testing.assert_allclose(states.eigenvalue[-1], spectrum[0], rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_rounding_errors_are_no_directions(dtype: jnp.dtype) -> None:
    """The products of a Hessian of rank two fill two vectors; the others stay zero, exactly."""
    matrix, _ = quadratic.hessian([3.0, 2.0, 0.0, 0.0, 0.0])
    gram = _gram(_track(matrix.astype(dtype), _points(5, 100).astype(dtype)))
    np.testing.assert_allclose(gram[4:, :2, :2], np.broadcast_to(np.eye(2), (96, 2, 2)), atol=1e-5)
    assert not np.any(gram[:, 2:])


def test_a_fit_that_cancels_keeps_the_vector() -> None:
    """The second product is the first one's negative, and both have the same weight."""
    matrices = jnp.stack([jnp.eye(3), -jnp.eye(3)])
    points = jnp.broadcast_to(_points(3, 1), (2, 3))
    vectors = quadratic.flat_steps(_track(matrices, points, size=1, decay=1 - 1e-9).eigenvector)
    np.testing.assert_allclose(jnp.linalg.norm(vectors[0]), 1, rtol=1e-12)
    np.testing.assert_array_equal(vectors[1], vectors[0])


def test_vectors_that_are_almost_dependent_become_orthonormal() -> None:
    """Those of a Hilbert matrix, in a metric that is no identity."""
    hilbert = 1 / (1 + jnp.arange(5.0)[:, None] + jnp.arange(5.0)[None])
    metric = hilbert + jnp.eye(5)
    basis = subspace._orthonormal(metric, hilbert[:, :4])
    np.testing.assert_allclose(basis.T @ metric @ basis, np.eye(4), atol=1e-13)
    # The first vectors span what they spanned.
    inside = basis @ (basis.T @ metric @ hilbert[:, :4])
    np.testing.assert_allclose(inside, hilbert[:, :4], atol=1e-13)


@pytest.mark.parametrize(("negative", "found"), [(3, 4.0), (4, -5.0)])
def test_the_span_follows_the_largest_magnitudes(negative: int, found: float) -> None:
    """With as many larger negative eigenvalues as vectors the largest is lost, as documented."""
    spectrum = [4.0, *(-5 - 0.5 * i for i in range(negative))]
    spectrum += [0.1] * (20 - len(spectrum))
    matrix, _ = quadratic.hessian(spectrum)
    states = _track(matrix, _points(20, 3000))
    vectors = quadratic.flat_steps(states.eigenvector)[-500:]
    quotients = jnp.sum(vectors @ matrix * vectors, axis=1)
    np.testing.assert_allclose(jnp.mean(quotients), found, rtol=0.05)


def test_zero_radius_keeps_the_state() -> None:
    matrix, _ = quadratic.hessian([3.0, 2.0, 1.0])
    params, gradient = quadratic.start(3), quadratic.grad_fn(matrix)
    tx = xsam_jax.xsam(
        rho=lambda count: jnp.where(count < 3, 0.1, 0.0), eigenvector=xsam_jax.subspace()
    )
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(gradient(params), state, params, grad_fn=gradient)
    _, after = tx.update(gradient(params), state, params, grad_fn=gradient)
    chex.assert_trees_all_equal(after.memory, state.memory)
    chex.assert_trees_all_equal(after.eigenvector, state.eigenvector)


def test_hyperparameters_of_numpy_leave_the_state_s_dtype() -> None:
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), quadratic.start(3))
    tracker = xsam_jax.subspace(decay=np.float64(0.9), ridge=np.float64(0.1))
    tx = xsam_jax.xsam(eigenvector=tracker)
    state = tx.init(params)
    update = lambda state: tx.update(params, state, params, grad_fn=lambda w: w)[1]
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(update, state), state)


def test_gradients_of_double_precision_leave_the_state_s_dtype() -> None:
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), quadratic.start(3))
    tx = xsam_jax.xsam(eigenvector=xsam_jax.subspace())
    state = tx.init(params)
    double = lambda w: jax.tree.map(lambda leaf: leaf.astype(jnp.float64), w)
    update = lambda state: tx.update(double(params), state, params, grad_fn=double)[1]
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(update, state), state)


@pytest.mark.parametrize(
    ("argument", "value"), [("size", 0), ("decay", 1.0), ("decay", 0), ("ridge", -1.0)]
)
def test_arguments(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=argument):
        xsam_jax.subspace(**{argument: value})
