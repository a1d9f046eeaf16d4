"""A small regression, how an optimizer trains on it, and how the same is done by hand."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.every_method.methods import LEARNING_RATE, METHODS

STEPS = 4
_rng = np.random.default_rng(0)
X, Y = _rng.normal(size=(STEPS, 6, 3)), _rng.normal(size=(STEPS, 6, 2))
INIT = {"bias": _rng.normal(size=2), "kernel": _rng.normal(size=(3, 2))}

Batch = tuple[chex.Array, chex.Array]
GradFn = Callable[[chex.ArrayTree], chex.ArrayTree]
# (memory, direction, params, step) -> (memory, update)
Rule = Callable[[Any, chex.ArrayTree, chex.ArrayTree, int], tuple[Any, chex.ArrayTree]]


def init(dtype: Any = jnp.float64) -> chex.ArrayTree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), INIT)


def batch(k: chex.Numeric) -> Batch:
    """Draw the mini-batch of step ``k``."""
    return jnp.asarray(X)[k], jnp.asarray(Y)[k]


def loss(params: chex.ArrayTree, batch: Batch) -> chex.Array:
    kernel = params["kernel"]
    x, y, bias = (jnp.astype(array, kernel.dtype) for array in (*batch, params["bias"]))
    return jnp.mean((jnp.tanh(x @ kernel + bias[None]) - y) ** 2)


def grad_fn(k: chex.Numeric) -> GradFn:
    return lambda params: jax.grad(loss)(params, batch(k))


def step(
    tx: optax.GradientTransformationExtraArgs,
    params: chex.ArrayTree,
    state: chex.ArrayTree,
    k: chex.Numeric,
    **extra_args: Any,
) -> tuple[chex.ArrayTree, chex.ArrayTree]:
    gradient = grad_fn(k)
    updates, state = tx.update(gradient(params), state, params, grad_fn=gradient, **extra_args)
    return optax.apply_updates(params, updates), state


def train(
    tx: optax.GradientTransformationExtraArgs,
    params: chex.ArrayTree | None = None,
    state: chex.ArrayTree = None,
    steps: Sequence[int] = range(STEPS),
    **extra_args: Any,
) -> tuple[chex.ArrayTree, chex.ArrayTree]:
    """Train, and stack parameters and state after each step on a leading axis."""
    params = init() if params is None else params
    state = tx.init(params) if state is None else state

    def body(carry: Any, k: chex.Array) -> tuple[Any, Any]:
        carry = step(tx, *carry, k, **extra_args)
        return carry, carry

    scan = jax.jit(lambda carry, steps: jax.lax.scan(body, carry, steps)[1])
    return scan((params, state), jnp.asarray(steps, jnp.int32))


@functools.cache
def undisturbed(name: str) -> tuple[chex.ArrayTree, chex.ArrayTree]:
    """Train the method with plain descent and nothing else."""
    return train(METHODS[name].optimizer())


@functools.cache
def stepper(name: str) -> Callable[..., tuple[chex.ArrayTree, chex.ArrayTree]]:
    """Compile a step of the method: ``(params, state, k) -> (params, state)``."""
    return jax.jit(functools.partial(step, METHODS[name].optimizer()))


@functools.cache
def _update(name: str) -> tuple[Any, Any]:
    method = METHODS[name]
    tx = method.transformation(optax.identity())
    return tx.init, jax.jit(
        lambda gradient, params, state, k: tx.update(gradient, state, params, grad_fn=grad_fn(k))
    )


def init_by_hand(name: str) -> chex.ArrayTree:
    return _update(name)[0](init())


def direct(
    name: str, gradient: chex.ArrayTree, params: chex.ArrayTree, state: chex.ArrayTree, k: int
) -> tuple[chex.ArrayTree, chex.ArrayTree, chex.ArrayTree]:
    """Call the method alone: its direction, what it adds to the base's update, and its state."""
    direction, state = _update(name)[1](gradient, params, state, k)
    if METHODS[name].wraps_base:
        return gradient, jax.tree.map(jnp.subtract, direction, gradient), state
    return direction, jax.tree.map(jnp.zeros_like, direction), state


gradient = jax.jit(lambda params, k: grad_fn(k)(params))


def descend(memory: Any, direction: chex.ArrayTree, params: Any, k: int) -> tuple[Any, Any]:
    """Plain gradient descent as a rule for `train_by_hand`."""
    return memory, jax.tree.map(lambda d: -LEARNING_RATE * d, direction)


def train_by_hand(
    name: str,
    rule: Rule = descend,
    memory: Any = None,
    before: Callable[[chex.ArrayTree, chex.ArrayTree], chex.ArrayTree] = lambda g, w: g,
) -> chex.ArrayTree:
    """Train with a base optimizer that is written out as ``rule``.

    ``before(gradient, params)`` is the gradient that the method is given.
    """
    params, state = init(), init_by_hand(name)
    trajectory = []
    for k in range(STEPS):
        g = before(gradient(params, k), params)
        direction, beside, state = direct(name, g, params, state, k)
        memory, update = rule(memory, direction, params, k)
        params = jax.tree.map(lambda *terms: sum(terms), params, update, beside)
        trajectory.append(params)
    return stack(trajectory)


def stack(trees: Sequence[chex.ArrayTree]) -> chex.ArrayTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def at(k: int, trees: chex.ArrayTree) -> chex.ArrayTree:
    """Take the ``k``-th of stacked trees."""
    return jax.tree.map(lambda leaf: leaf[k], trees)


def assert_close(actual: chex.ArrayTree, expected: chex.ArrayTree, atol: float = 1e-12) -> None:
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=atol)
