"""In place of optax.contrib.sam: the same trajectory, and what that one cannot do."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import xsam_jax
from tests.every_method.methods import METHODS, every_method
from tests.every_method.problem import STEPS, assert_close, grad_fn, init, stack, train

RHO = 0.3
OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": optax.adamw(0.1, weight_decay=0.1),
}


def contrib_sam(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
    return optax.contrib.sam(optimizer, adversary, opaque_mode=True)


@pytest.mark.usefixtures("standard_promotion")  # optax raises floats to the power of int32 counts
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_takes_the_same_trajectory(optimizer: str) -> None:
    tx = contrib_sam(OPTIMIZERS[optimizer])

    @jax.jit
    def step(params: chex.ArrayTree, state: Any, k: chex.Numeric) -> tuple[chex.ArrayTree, Any]:
        updates, state = tx.update(
            grad_fn(k)(params), state, params, grad_fn=lambda params, _: grad_fn(k)(params)
        )
        return optax.apply_updates(params, updates), state

    params, expected = init(), []
    state = tx.init(params)
    for k in range(STEPS):
        params, state = step(params, state, k)
        expected.append(params)
    trajectory, _ = train(optax.chain(xsam_jax.sam(RHO), OPTIMIZERS[optimizer]))
    assert_close(trajectory, stack(expected))


def test_contrib_sam_rejects_value() -> None:
    tx, params = contrib_sam(OPTIMIZERS["sgd"]), init()
    with pytest.raises(TypeError, match="value"):
        tx.update(params, tx.init(params), params, grad_fn=lambda w, _: w, value=1.0)


@every_method
def test_accepts_value(name: str) -> None:
    """Any extra argument passes, as optax.GradientTransformationExtraArgs promises."""
    tx, params = METHODS[name].optimizer(), init()

    def update(value: chex.Numeric) -> chex.ArrayTree:
        state = tx.init(params)
        return tx.update(params, state, params, grad_fn=lambda w: w, value=value)[0]

    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(update, 1.0), params)


def test_contrib_sam_is_nan_at_a_zero_gradient() -> None:
    tx, params = contrib_sam(OPTIMIZERS["sgd"]), init()
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params, grad_fn=lambda w, _: w)
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(updates))


@every_method
def test_stays_at_a_zero_gradient(name: str) -> None:
    """At the minimum of a quadratic nothing moves and the state stays finite."""
    tx, params = METHODS[name].optimizer(), jax.tree.map(jnp.zeros_like, init())
    update = jax.jit(lambda state: tx.update(params, state, params, grad_fn=lambda w: w))
    updates, state = update(tx.init(params))
    chex.assert_trees_all_equal(updates, params)
    chex.assert_tree_all_finite(state)
