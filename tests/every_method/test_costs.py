"""What a step costs, counted: gradients and Hessian-vector products that are executed."""

from collections import Counter
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import xsam_jax
from tests.every_method.methods import METHODS, every_method
from tests.every_method.problem import (
    STEPS,
    Batch,
    GradFn,
    assert_close,
    at,
    batch,
    grad_fn,
    init,
    loss,
    undisturbed,
)


class Counted:
    """A gradient function that counts its executions, and apart from them its derivative's."""

    def __init__(self, gradient: GradFn) -> None:
        self.executed = Counter[str]()

        @jax.custom_jvp
        def counted(params: chex.ArrayTree) -> chex.ArrayTree:
            jax.debug.callback(lambda: self.executed.update(["gradients"]))
            return gradient(params)

        @counted.defjvp
        def product(primals: Any, tangents: Any) -> tuple[Any, Any]:
            jax.debug.callback(lambda: self.executed.update(["products"]))
            return jax.jvp(gradient, primals, tangents)

        self.gradient = counted

    def take(self) -> dict[str, int]:
        """Return the counts since the last call."""
        jax.effects_barrier()
        counts, self.executed = dict(self.executed), Counter()
        return counts


def per_step(tx: optax.GradientTransformationExtraArgs) -> list[dict[str, int]]:
    """Count the gradients of each step: the caller's own, and those within ``update``."""
    counted = Counted(grad_fn(0))

    @jax.jit
    def step(params: chex.ArrayTree, state: Any) -> tuple[chex.ArrayTree, Any]:
        gradient = counted.gradient
        updates, state = tx.update(gradient(params), state, params, grad_fn=gradient)
        return optax.apply_updates(params, updates), state

    carry, counts = (init(), tx.init(init())), []
    for _ in range(STEPS):
        carry = step(*carry)
        counts.append(counted.take())
    return counts


@every_method
def test_gradients_and_products(name: str) -> None:
    plain = {"gradients": 2}
    refresh = plain | ({"products": METHODS[name].products} if METHODS[name].products else {})
    assert per_step(METHODS[name].optimizer()) == [refresh, plain, refresh, plain]


@every_method
def test_conditionally_transform(name: str) -> None:
    """A step that is left out costs the caller's own gradient and no more."""
    method = METHODS[name].transformation()
    tx = optax.conditionally_transform(method, lambda step: step % 2 == 0)
    assert [counts["gradients"] for counts in per_step(tx)] == [2, 1, 2, 1]


@pytest.mark.usefixtures("standard_promotion")  # optax divides float64 by int32
@pytest.mark.parametrize("recipe", ["MultiSteps", "MultiSteps, guarded", "one update"])
@pytest.mark.parametrize("name", ["sam", "xsam"])
def test_accumulation(name: str, recipe: str) -> None:
    """Three ways to take one step over three micro-batches, and how often one is visited.

    MultiSteps runs the method at every micro-step and throws all but the last result away.
    """
    micro_batches = jax.tree.map(lambda array: array.reshape(3, 2, -1), batch(0))
    visits = Counter[str]()

    def counted_loss(params: chex.ArrayTree, micro_batch: Batch) -> chex.Array:
        jax.debug.callback(lambda: visits.update(["visits"]))
        return loss(params, micro_batch)

    mean = xsam_jax.mean_grad_fn(counted_loss, micro_batches)
    optimizer = METHODS[name].optimizer()

    def at_the_last(state: optax.MultiStepsState) -> GradFn:
        def guarded(params: chex.ArrayTree) -> chex.ArrayTree:
            zeros = lambda params: jax.tree.map(jnp.zeros_like, params)
            return jax.lax.cond(state.mini_step == 2, mean, zeros, params)

        return guarded

    @jax.jit
    def step(params: chex.ArrayTree) -> chex.ArrayTree:
        if recipe == "one update":
            state = optimizer.init(params)
            updates, _ = optimizer.update(mean(params), state, params, grad_fn=mean)
            return optax.apply_updates(params, updates)
        tx = optax.MultiSteps(optimizer, 3, accumulator_dtype=jnp.float64)
        state = tx.init(params)
        for i in range(3):
            gradient = jax.grad(counted_loss)(params, at(i, micro_batches))
            second = mean if recipe == "MultiSteps" else at_the_last(state)
            updates, state = tx.update(gradient, state, params, grad_fn=second)
            params = optax.apply_updates(params, updates)
        return params

    assert_close(step(init()), at(0, undisturbed(name)[0]))
    jax.effects_barrier()
    within_update = 3 * (1 + METHODS[name].products)
    factor = 3 if recipe == "MultiSteps" else 1
    assert visits["visits"] == 3 + factor * within_update
