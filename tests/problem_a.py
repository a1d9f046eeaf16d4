"""Problem A of the golden trajectories: a small MLP in float64 (tests/golden/problem_a.json)."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

FOLDER = Path(__file__).parent / "golden"
STEPS, MINIBATCHES = 20, 5
LAYERS = ("dense_0", "dense_1", "dense_2")


@functools.cache
def arrays() -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for name in ("problem_a", "problem_a_official"):
        with np.load(FOLDER / f"{name}.npz") as file:
            found |= file
    return found


def hyperparameters(method: str) -> dict[str, float]:
    description = json.loads((FOLDER / "problem_a.json").read_text())
    return description["methods"][method]["hyperparameters"]


def tree(prefix: str) -> dict[str, dict[str, chex.Array]]:
    """Read the parameter tree stored under ``prefix``."""
    return {
        layer: {
            leaf: jnp.asarray(arrays()[f"{prefix}/{layer}/{leaf}"]) for leaf in ("kernel", "bias")
        }
        for layer in LAYERS
    }


def loss(params: chex.ArrayTree, x: chex.Array, y: chex.Array) -> chex.Array:
    for layer in LAYERS:
        x = x @ params[layer]["kernel"] + params[layer]["bias"][None]
        if layer != LAYERS[-1]:
            x = jnp.tanh(x)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(x, y))


def minibatch(step: chex.Numeric) -> tuple[chex.Array, chex.Array]:
    return (
        jnp.asarray(arrays()["data/x"])[step % MINIBATCHES],
        jnp.asarray(arrays()["data/y"])[step % MINIBATCHES],
    )


def grad_fn(step: chex.Numeric) -> Callable[[chex.ArrayTree], chex.ArrayTree]:
    x, y = minibatch(step)
    return lambda params: jax.grad(loss)(params, x, y)


def run(
    tx: optax.GradientTransformationExtraArgs,
    params: chex.ArrayTree | None = None,
    steps: int = STEPS,
    first: int = 0,
    state: Any = None,
    **extra_args: Any,
) -> tuple[chex.ArrayTree, chex.ArrayTree]:
    """Train with ``tx``; stack parameters and state after each step on a leading axis.

    A run may go on from step ``first``, with the parameters and the state before it.
    """
    params = tree("init") if params is None else params
    state = tx.init(params) if state is None else state

    def step(carry: Any, k: chex.Array) -> tuple[Any, Any]:
        params, state = carry
        gradient = grad_fn(k)
        updates, state = tx.update(gradient(params), state, params, grad_fn=gradient, **extra_args)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state)

    of_steps = jnp.arange(first, first + steps, dtype=jnp.int32)
    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, of_steps)[1])
    return scan((params, state))


def base(name: str, learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Make the base optimizers "sgd" and "sgdm" of the reference."""
    if name == "sgd":
        return optax.sgd(learning_rate)
    return optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(learning_rate, momentum=0.9))
