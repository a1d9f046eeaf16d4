"""One compiled program for all steps, in place, and in mixed precision."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from tests.every_method.methods import METHODS, every_method
from tests.every_method.problem import (
    STEPS,
    assert_close,
    grad_fn,
    init,
    stack,
    step,
    undisturbed,
)


@every_method
def test_donated_steps_are_one_program_and_equal_the_scan(name: str) -> None:
    tx = METHODS[name].optimizer()
    donating = jax.jit(partial(step, tx), donate_argnums=(0, 1))
    params, trajectory = init(), []
    state = tx.init(params)
    for k in range(STEPS):
        donated = jax.tree.leaves((params, state))
        params, state = donating(params, state, k)
        assert all(leaf.is_deleted() for leaf in donated)
        # Copies, because the next step takes the buffers.
        trajectory.append(jax.tree.map(np.array, (params, state)))
    assert donating._cache_size() == 1
    params, state = stack(trajectory)
    assert_close(params, undisturbed(name)[0])
    assert_close(state, undisturbed(name)[1], atol=1e-6)  # float32 fields


@every_method
def test_bfloat16_leaf_beside_float32(name: str) -> None:
    """Updates are float32's up to the rounding of ``w + e``, which WSAM multiplies by 4 here."""
    tx = METHODS[name].optimizer()
    mixed = {"kernel": init(jnp.bfloat16)["kernel"], "bias": init(jnp.float32)["bias"]}

    @jax.jit
    def update(params: chex.ArrayTree, state: Any, k: chex.Numeric) -> tuple[chex.ArrayTree, Any]:
        gradient = grad_fn(k)
        return tx.update(gradient(params), state, params, grad_fn=gradient)

    def second_update(params: chex.ArrayTree) -> chex.ArrayTree:
        _, state = update(params, tx.init(params), 0)
        return update(params, state, 1)[0]

    actual = second_update(mixed)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, mixed)
    expected = second_update(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), mixed))
    actual = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), actual)
    size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert_close(actual, expected, atol=0.06 * size)
