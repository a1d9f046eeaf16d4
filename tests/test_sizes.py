"""Numbers of every size that float32 has: what is lost counts as zero, and nothing is wrong."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xsam_jax
from tests import quadratic
from xsam_jax import curvature

MATRIX, _ = quadratic.hessian([5.0, 3.0, 1.0, 0.5, -1.0])
SIZES = 10.0 ** np.arange(-38, 39)
TINY, HUGE = (float(x) for x in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
TRACKERS = {
    "power_iteration": xsam_jax.power_iteration(every=2, iters=2),
    "oja": xsam_jax.oja(),
    "subspace": xsam_jax.subspace(3),
}
START = np.array([1.0, -2.0, 0.5, 3.0, 0.1])


def _from(start: chex.ArrayTree) -> Any:
    """Take a step whose eigenvector starts there, and return the state."""
    tx = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(iters=1, start=start))
    params, gradient = quadratic.start(5, dtype=jnp.float32), quadratic.grad_fn(MATRIX)
    return tx.update(gradient(params), tx.init(params), params, grad_fn=gradient)[1]


@pytest.mark.parametrize(
    "start",
    [
        *(size * START for size in (1e-36, 1e-30, 1e-20, 1e19, 1e25, 1e38)),
        np.full(5, TINY),
        np.full(5, HUGE),
        np.array([1e-30, 0.0, 1e38, -1e38, 1.0]),  # in both leaves of the tree, and in one
    ],
)
def test_a_start_of_any_size_is_that_of_norm_one(start: np.ndarray) -> None:
    expected = _from(quadratic.tree(start / np.linalg.norm(start), jnp.float32))
    single = quadratic.tree(start, jnp.float32)
    stacked = jax.tree.map(lambda leaf: leaf[None], single)
    for found in (
        _from(single),
        _from(quadratic.tree(start)),
        _from(jax.tree.map(np.asarray, quadratic.tree(start))),
        jax.jit(_from)(single),
        jax.tree.map(lambda leaf: leaf[0], jax.vmap(_from)(stacked)),
    ):
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_start_that_float32_does_not_have() -> None:
    """An error, in place of a vector that is never found."""
    with jax.enable_x64(False):
        for size in (1e-39, 1e39):
            with pytest.raises(ValueError, match="start must be finite and not zero in float32"):
                xsam_jax.power_iteration(start=size * START)
    xsam_jax.power_iteration(start=1e39 * START)


def _steps(method: Any, curvature: chex.Array, size: float) -> Any:
    """Take eight steps with a curvature and parameters of these sizes; stack the states."""
    gradient = quadratic.grad_fn(curvature * MATRIX.astype(jnp.float32))
    points = size * np.random.default_rng(0).normal(size=(8, 5))

    def step(state: Any, w: chex.Array) -> tuple[Any, Any]:
        params = quadratic.tree(w)
        _, state = method.update(gradient(params), state, params, grad_fn=gradient)
        return state, state

    points = jnp.asarray(points, jnp.float32)
    return jax.lax.scan(step, method.init(quadratic.tree(points[0])), points)[1]


@pytest.mark.parametrize("size", [1e-10, 1.0])
@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("factory", [xsam_jax.xsam, xsam_jax.eigen_sam])
def test_eigenvectors_have_norm_one_or_are_unknown(
    factory: Callable[..., Any], tracker: str, size: float
) -> None:
    """For a curvature of every power of ten, and none is without a vector for moderate ones."""
    method = factory(0.1, eigenvector=TRACKERS[tracker])
    curvatures = jnp.asarray(SIZES, jnp.float32)
    states = jax.jit(jax.vmap(lambda curvature: _steps(method, curvature, size)))(curvatures)
    trees = [states.eigenvector, *getattr(states.memory, "others", ())]
    for tree in trees:
        norms = np.linalg.norm(jax.vmap(quadratic.flat_steps)(tree).astype(float), axis=-1)
        np.testing.assert_allclose(norms[norms != 0], 1, rtol=2e-3)
        moderate = (SIZES * size > 1e-16) & (SIZES > 1e-14) & (SIZES < 1e17)
        assert (norms[moderate, -1] > 0).all()
    assert np.isfinite(states.eigenvalue).all()
    if factory is xsam_jax.xsam:
        assert (np.abs(states.alignment) <= 1).all()


@pytest.mark.parametrize("size", [1e-35, 1e-25, 1e20, 3e37])
def test_constants_of_a_compiled_step(size: float) -> None:
    """XLA knows their numbers, and must not take the squares first."""
    for vector in (np.ones(5), START):
        unit = vector / np.linalg.norm(vector)
        constant = quadratic.tree(size * vector, jnp.float32)
        found = jax.jit(lambda constant=constant: _from(constant))()
        expected = _from(quadratic.tree(unit, jnp.float32))
        chex.assert_trees_all_close(found.eigenvector, expected.eigenvector, rtol=1e-5)
        np.testing.assert_allclose(found.eigenvalue, expected.eigenvalue, rtol=1e-5)
        angle = lambda constant=constant, unit=unit: curvature.angle(
            constant, quadratic.tree(unit, jnp.float32)
        )
        np.testing.assert_allclose(jax.jit(angle)(), 0, atol=1e-4)


def test_alignment_is_a_cosine() -> None:
    """Also where the gradient lies along the eigenvector and rounding goes beyond one."""
    tx = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(every=1, iters=1))

    def alignment(w: chex.Array) -> chex.Array:
        state = tx.init(w)._replace(eigenvector=w / jnp.linalg.norm(w), memory=jnp.int32(9))
        gradient = lambda w: w
        return tx.update(w, state, w, grad_fn=gradient, refresh=False)[1].alignment

    points = jnp.asarray(np.random.default_rng(0).normal(size=(300, 7)), jnp.float32)
    for w in (points, -points):
        found = jax.jit(jax.vmap(alignment))(w)
        np.testing.assert_allclose(found, 1, rtol=1e-6)
        assert (found <= 1).all()


def _direction(method: Any, gradient: Any, params: Any, state: Any = None) -> np.ndarray:
    state = method.init(params) if state is None else state
    direction, _ = method.update(gradient(params), state, params, grad_fn=gradient)
    return np.asarray(quadratic.flat(direction), float)


SMALL = {
    "sam": xsam_jax.sam(0.1),
    "asam": xsam_jax.sam(0.1, adaptive=True),
    "gsam": xsam_jax.gsam(0.1, 0.5),
    "wsam": xsam_jax.wsam(0.1, 0.6),
    "friendly_sam": xsam_jax.friendly_sam(0.1),
    "eigen_sam": xsam_jax.eigen_sam(0.1, eigenvector=xsam_jax.oja()),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [1e-34, 1e-25, 1e-22, 1e-19])
def test_a_gradient_that_counts_as_zero_perturbs_nothing(
    name: str, size: float, compiled: bool
) -> None:
    """And the direction is the gradient itself, which is a minimum's to float32."""
    gradient = quadratic.grad_fn(size * MATRIX / 10)
    params = quadratic.start(5, dtype=jnp.float32)
    step = lambda params: _tree_direction(SMALL[name], gradient, params)
    found = (jax.jit(step) if compiled else step)(params)
    chex.assert_trees_all_close(found, gradient(params), rtol=1e-5)


def _tree_direction(method: Any, gradient: Any, params: Any) -> chex.ArrayTree:
    return method.update(gradient(params), method.init(params), params, grad_fn=gradient)[0]


@pytest.mark.parametrize("size", [1e-15, 1e-10, 1.0, 1e10, 1e17])
@pytest.mark.parametrize("name", SMALL)
def test_the_direction_grows_with_the_gradient(name: str, size: float) -> None:
    params = quadratic.start(5, dtype=jnp.float32)
    unit = _direction(SMALL[name], quadratic.grad_fn(MATRIX), params)
    found = _direction(SMALL[name], quadratic.grad_fn(size * MATRIX), params)
    np.testing.assert_allclose(found / size, unit, rtol=1e-4)


@pytest.mark.parametrize("w", [1e-10, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("g", [1e-15, 1e-10, 1e10, 1e15])
@pytest.mark.parametrize("compiled", [False, True])
def test_adaptive_perturbation_of_parameters_and_gradients_of_any_size(
    w: float, g: float, compiled: bool
) -> None:
    """Against float64; the gradient at the perturbed point says where that is."""
    rng = np.random.default_rng(0)
    params, grads = (rng.normal(size=5) for _ in range(2))
    expected = w * params + 0.5 * w * params**2 * grads / np.linalg.norm(params * grads)
    tx = xsam_jax.sam(0.5, adaptive=True)
    params, grads = (jnp.asarray(x, jnp.float32) for x in (w * params, g * grads))
    update = lambda params: tx.update(grads, tx.init(params), params, grad_fn=lambda w: w)[0]
    found = (jax.jit(update) if compiled else update)(params)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_perturbation_whose_norm_overflows_is_a_bad_step() -> None:
    """Not one without a perturbation: that of w * g, and of the difference of g and the mean."""
    g = jnp.full(3, 1e19, jnp.float32)
    asam, friendly = xsam_jax.sam(adaptive=True), xsam_jax.friendly_sam()
    for tx, params, state in (
        (asam, 1e6 * g, asam.init(g)),
        (friendly, g, friendly.init(g)._replace(mean=-g)),
    ):
        direction, after = tx.update(g / 2, state, params, grad_fn=lambda w: 1e-19 * w)
        assert np.isnan(direction).all()
        chex.assert_trees_all_equal(after, state._replace(count=jnp.int32(1)))


@pytest.mark.parametrize("size", [1e-22, 1e-19])
def test_a_mean_that_counts_as_zero_is_none(size: float) -> None:
    """The next gradient becomes the mean, as after gradients that are zero."""
    tx = xsam_jax.friendly_sam(decay=0.8)
    w = jnp.ones(4, jnp.float32)
    state = tx.init(w)
    for scale in (0.0, size / 3):
        _, state = tx.update(scale * w, state, w, grad_fn=lambda w: w)
        _, state = tx.update(scale * w, state, w, grad_fn=lambda w: w)
        _, after = tx.update(3 * w, state, w, grad_fn=lambda w: w)
        np.testing.assert_array_equal(after.mean, 3 * w)


@pytest.mark.parametrize("every", [1, 2, 100, 2**31 - 1])
@pytest.mark.parametrize("compiled", [False, True])
def test_at_the_end_of_the_step_count_no_refresh_is_due(every: int, compiled: bool) -> None:
    """And never a negative step; the last ones before it are made when they are due."""
    last = 2**31 - 1
    tx = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(every=every, iters=1))
    params, gradient = quadratic.start(5), quadratic.grad_fn(MATRIX)
    step = lambda state: tx.update(gradient(params), state, params, grad_fn=gradient)[1]
    step = jax.jit(step) if compiled else step
    first = last - 5
    state = tx.init(params)._replace(
        count=jnp.int32(first), memory=jnp.int32(min(-(-first // every) * every, last))
    )
    counts = []
    for _ in range(9):
        before, state = state, step(state)
        assert state.count <= state.memory or state.count == state.memory == last
        assert state.memory > 0
        if np.any(quadratic.flat(before.eigenvector) != quadratic.flat(state.eigenvector)):
            counts.append(int(before.count))
    assert counts == [count for count in range(first, last) if count % every == 0]
    # The caller may still ask for one.
    asked = tx.update(gradient(params), state, params, grad_fn=gradient, refresh=True)[1]
    np.testing.assert_allclose(np.linalg.norm(quadratic.flat(asked.eigenvector)), 1, rtol=1e-6)
