"""F-SAM's running mean."""

import chex
import jax.numpy as jnp
import pytest

import xsam_jax
from tests import quadratic


@pytest.mark.parametrize("bad_steps", [0, 2])
def test_the_first_good_gradient_is_the_mean(bad_steps: int) -> None:
    """And the later ones enter it with their weight."""
    matrix, _ = quadratic.hessian([3.0, 2.0, 1.0])
    params, gradient = quadratic.start(3), quadratic.grad_fn(matrix)
    grads = gradient(params)
    tx = xsam_jax.friendly_sam(decay=0.8)
    state = tx.init(params)
    for _ in range(bad_steps):
        bad = quadratic.tree(jnp.full(3, jnp.nan))
        _, state = tx.update(bad, state, params, grad_fn=gradient)
    _, state = tx.update(grads, state, params, grad_fn=gradient)
    chex.assert_trees_all_equal(state.mean, grads)
    assert state.count == bad_steps + 1
    _, state = tx.update(quadratic.tree(jnp.zeros(3)), state, params, grad_fn=gradient)
    chex.assert_trees_all_close(quadratic.flat(state.mean), 0.8 * quadratic.flat(grads), rtol=1e-12)
