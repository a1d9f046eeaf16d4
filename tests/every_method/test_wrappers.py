"""Inside optax's wrappers: trajectories against the same method without them."""

import functools
import operator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import xsam_jax
from tests.every_method.methods import LEARNING_RATE, METHODS, every_method
from tests.every_method.problem import (
    STEPS,
    assert_close,
    at,
    batch,
    grad_fn,
    init,
    loss,
    stack,
    step,
    stepper,
    train,
    undisturbed,
)

SGD = optax.sgd(LEARNING_RATE)


def descended(params: chex.ArrayTree, direction: chex.ArrayTree) -> chex.ArrayTree:
    return jax.tree.map(lambda w, d: w - LEARNING_RATE * d, params, direction)


@every_method
def test_inject_hyperparams(name: str) -> None:
    """Hyperparameters set in the state hold from that state on, and each has its effect."""
    method = METHODS[name]
    halves = {key: value / 2 for key, value in method.hyperparameters.items()}
    params, state = at(1, undisturbed(name))
    expected, _ = train(method.optimizer(**halves), params, state, steps=[2, 3])

    tx = method._replace(factory=optax.inject_hyperparams(method.factory)).optimizer()
    injected_step = jax.jit(functools.partial(step, tx))

    def last_two_steps(**hyperparameters: float) -> chex.ArrayTree:
        params, state = halfway
        state = optax.tree.set(state, **jax.tree.map(jnp.asarray, hyperparameters))
        for k in (2, 3):
            params, state = injected_step(params, state, k)
        return params

    halfway = init(), tx.init(init())
    for k in (0, 1):
        halfway = injected_step(*halfway, k)
    assert_close(last_two_steps(**halves), at(-1, expected))
    assert_close(last_two_steps(), at(-1, undisturbed(name)[0]))
    for key, half in halves.items():
        with pytest.raises(AssertionError):
            assert_close(last_two_steps(**{key: half}), last_two_steps(), atol=1e-5)


@pytest.mark.usefixtures("standard_promotion")  # optax divides float64 by int32
@every_method
def test_multi_steps(name: str) -> None:
    """The mean over all micro-batches as ``grad_fn`` makes it the step of the whole batch."""
    tx = optax.MultiSteps(METHODS[name].optimizer(), 2, accumulator_dtype=jnp.float64)

    @jax.jit
    def stepped(params: chex.ArrayTree, state: Any, k: chex.Array, half: chex.Array) -> Any:
        halves = jax.tree.map(lambda array: array.reshape(2, 3, -1), batch(k))
        mean = xsam_jax.mean_grad_fn(loss, halves)
        micro = jax.grad(loss)(params, at(half, halves))
        updates, state = tx.update(micro, state, params, grad_fn=mean)
        return optax.apply_updates(params, updates), state

    params, trajectory = init(), []
    state = tx.init(params)
    for k in range(STEPS):
        waiting, state = stepped(params, state, k, 0)
        chex.assert_trees_all_equal(waiting, params)
        params, state = stepped(params, state, k, 1)
        trajectory.append(params)
    assert_close(stack(trajectory), undisturbed(name)[0])


@functools.cache
def kernel_by_hand(name: str) -> chex.ArrayTree:
    """Train with the method on the kernel alone, and plain descent on the bias."""
    tx = METHODS[name].optimizer()

    @jax.jit
    def stepped(params: chex.ArrayTree, state: Any, k: chex.Array) -> tuple[chex.ArrayTree, Any]:
        g = grad_fn(k)(params)

        def kernel_grad_fn(kernel: chex.Array) -> chex.Array:
            return grad_fn(k)({"kernel": kernel, "bias": params["bias"]})["kernel"]

        update, state = tx.update(g["kernel"], state, params["kernel"], grad_fn=kernel_grad_fn)
        return {**descended(params, g), "kernel": params["kernel"] + update}, state

    params, trajectory = init(), []
    state = tx.init(params["kernel"])
    for k in range(STEPS):
        params, state = stepped(params, state, k)
        trajectory.append(params)
    return stack(trajectory)


@pytest.mark.parametrize("wrapper", ["masked", "partition"])
@every_method
def test_part_of_the_leaves(name: str, wrapper: str) -> None:
    """Only the kernel is perturbed, and norms and eigenvectors know of no other leaf."""
    method, sharp = METHODS[name], {"kernel": True, "bias": False}
    if wrapper == "partition":
        tx = optax.partition(
            {"sharp": method.optimizer(), "plain": SGD}, {"kernel": "sharp", "bias": "plain"}
        )
    elif method.wraps_base:
        tx = optax.chain(
            optax.masked(method.optimizer(), sharp),
            optax.masked(SGD, jax.tree.map(operator.not_, sharp)),
        )
    else:
        tx = optax.chain(optax.masked(method.transformation(), sharp), SGD)

    @jax.jit
    def stepped(params: chex.ArrayTree, state: Any, k: chex.Array) -> tuple[chex.ArrayTree, Any]:
        whole = grad_fn(k)
        partial = xsam_jax.masked_grad_fn(whole, params)
        updates, state = tx.update(whole(params), state, params, grad_fn=partial)
        return optax.apply_updates(params, updates), state

    params, trajectory = init(), []
    state = tx.init(params)
    for k in range(STEPS):
        params, state = stepped(params, state, k)
        trajectory.append(params)
    assert_close(stack(trajectory), kernel_by_hand(name))


@every_method
def test_conditionally_transform(name: str) -> None:
    """Steps that it leaves out are plain ones and no steps of the method."""
    # Without a learning rate: a left out step passes on the gradient.
    tx = METHODS[name].transformation(optax.identity())
    plain, sharp = (
        jax.jit(functools.partial(step, inner)) for inner in (SGD, optax.chain(tx, SGD))
    )

    @jax.jit
    def conditional(params: chex.ArrayTree, state: Any, k: chex.Array, active: chex.Array) -> Any:
        wrapped = optax.conditionally_transform(tx, lambda count: active[count])
        return step(optax.chain(wrapped, SGD), params, state, k)

    from_step_2, every_second = (False, False, True, True), (True, False, True, False)
    for active in (from_step_2, every_second):
        params = by_hand = init()
        state = optax.chain(optax.conditionally_transform(tx, bool), SGD).init(params)
        sharp_state = optax.chain(tx, SGD).init(params)
        for k in range(STEPS):
            params, state = conditional(params, state, k, jnp.asarray(active))
            if active[k]:
                by_hand, sharp_state = sharp(by_hand, sharp_state, k)
            else:
                by_hand, _ = plain(by_hand, SGD.init(by_hand), k)
            assert_close(params, by_hand)


@pytest.mark.parametrize("name", ["sam", "xsam_oja"])
def test_conditionally_mask_around(name: str) -> None:
    """Steps that it leaves out change nothing; the others are the method's first, second, ..."""
    active = lambda k: k % 2 == 1
    tx = optax.conditionally_mask(METHODS[name].optimizer(), active)
    params, expected = init(), init()
    state, inner = tx.init(params), METHODS[name].optimizer().init(params)
    stepped = jax.jit(functools.partial(step, tx))
    for k in range(STEPS):
        params, state = stepped(params, state, k)
        if active(k):
            expected, inner = stepper(name)(expected, inner, k)
        assert_close(params, expected)
        assert_close(state.inner_state, inner)


@pytest.mark.usefixtures("standard_promotion")  # optax multiplies floats by a bool
@every_method
def test_lookahead_with_grad_fn_bound(name: str) -> None:
    inner = METHODS[name].optimizer()

    def lookahead(k: chex.Numeric) -> optax.GradientTransformation:
        bound = functools.partial(inner.update, grad_fn=grad_fn(k))
        return optax.lookahead(optax.GradientTransformation(inner.init, bound), 2, 0.5)

    @jax.jit
    def lookahead_step(params: Any, state: Any, k: chex.Numeric) -> tuple[Any, Any]:
        updates, state = lookahead(k).update(grad_fn(k)(params.fast), state, params)
        return optax.apply_updates(params, updates), state

    params = optax.LookaheadParams.init_synced(init())
    state = lookahead(0).init(params)
    slow = fast = init()
    by_hand = inner.init(fast)
    for k in range(STEPS):
        params, state = lookahead_step(params, state, k)
        fast, by_hand = stepper(name)(fast, by_hand, k)
        if k % 2:
            slow = fast = jax.tree.map(lambda slow, fast: (slow + fast) / 2, slow, fast)
        assert_close(params, optax.LookaheadParams(fast=fast, slow=slow))
