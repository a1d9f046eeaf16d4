"""What all trackers share: refreshes that are lost, vmap, the state."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import xsam_jax
from tests import quadratic


@functools.cache
def _eigenvectors(every: int) -> Callable[[chex.Array], chex.ArrayTree]:
    matrix, _ = quadratic.hessian([4.0, 3.9, 3.8, 3.7])
    params, gradient = quadratic.start(4), quadratic.grad_fn(matrix)
    # A cold start from random vectors: a refresh is seen by a new vector.
    tx = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(every=every, iters=1))

    def step(state: Any, factor: chex.Array) -> tuple[Any, Any]:
        grads = jax.tree.map(lambda leaf: factor * leaf, gradient(params))
        _, state = tx.update(grads, state, params, grad_fn=gradient)
        return state, state.eigenvector

    return jax.jit(lambda factors: jax.lax.scan(step, tx.init(params), factors)[1])


def _refreshes(every: int, factors: chex.Array) -> list[int]:
    """Find the steps with a new eigenvector, where step k's first gradient is multiplied."""
    found = quadratic.flat_steps(_eigenvectors(every)(factors))
    vectors = np.concatenate([np.zeros((1, 4)), found])
    steps: list[int] = np.flatnonzero(np.any(np.diff(vectors, axis=0) != 0, axis=1)).tolist()
    return steps


@pytest.mark.parametrize("every", [1, 2, 5])
def test_refreshes_at_steps_1_and_every_p_after(every: int) -> None:
    assert _refreshes(every, jnp.ones(11)) == list(range(0, 11, every))


@pytest.mark.parametrize("bad_steps", [[0], [0, 1], [3], [3, 4], [2], [3, 4, 5, 6]])
def test_a_refresh_lost_in_a_bad_step_is_made_in_the_next(bad_steps: list[int]) -> None:
    factors = jnp.ones(9).at[jnp.array(bad_steps)].set(jnp.inf)

    def next_good(k: int) -> int:
        return min(i for i in range(k, 9) if i not in bad_steps)

    # Once, however many were lost meanwhile, and then at the old times.
    assert _refreshes(3, factors) == sorted({next_good(k) for k in (0, 3, 6)})


def test_under_vmap_each_has_the_refreshes_of_its_own() -> None:
    """Two seeds of four step counts each, all in one batch of batches."""
    gradient = quadratic.grad_fn(quadratic.hessian([4.0, 3.0, 2.0])[0])
    tx = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(every=3, iters=2))

    def step(params: chex.ArrayTree, state: Any) -> Any:
        return tx.update(gradient(params), state, params, grad_fn=gradient)[1]

    def trajectory(params: chex.ArrayTree) -> Any:
        advance = lambda state, _: (step(params, state), state)
        return jax.lax.scan(advance, tx.init(params), length=5)[1]

    params = [quadratic.start(3, seed=seed) for seed in range(2)]
    alone = [jax.jit(trajectory)(w) for w in params]
    stacked, states = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *x) for x in (params, alone))
    before, after = (jax.tree.map(lambda leaf, k=k: leaf[:, k : k + 4], states) for k in (0, 1))
    found = jax.jit(jax.vmap(jax.vmap(step, (None, 0))))(stacked, before)
    chex.assert_trees_all_close(found, after, rtol=1e-12)


@pytest.mark.parametrize(("every", "refresh", "more"), [(1, None, 0), (2, None, 1), (2, False, 0)])
def test_only_a_refresh_that_may_be_due_is_a_branch(
    every: int, refresh: bool | None, more: int
) -> None:
    params, gradient = quadratic.start(3), quadratic.grad_fn(jnp.eye(3))

    def branches(tx: optax.GradientTransformationExtraArgs) -> int:
        step = lambda state: tx.update(
            gradient(params), state, params, grad_fn=gradient, refresh=refresh
        )
        return str(jax.jit(step).lower(tx.init(params)).compile().as_text()).count(" conditional(")

    tx = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(every=every))
    assert branches(tx) == branches(xsam_jax.sam()) + more


def test_only_a_tracker_with_products_of_its_own_goes_with_per_device() -> None:
    tx_of = functools.partial(xsam_jax.xsam, axis_name="data", per_device=True)
    tx_of(eigenvector=xsam_jax.power_iteration())
    for tracker in (xsam_jax.oja(), xsam_jax.subspace()):
        with pytest.raises(ValueError, match=r"^eigenvector must be power_iteration\(\) with"):
            tx_of(eigenvector=tracker)
