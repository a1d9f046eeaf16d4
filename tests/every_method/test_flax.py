"""With Flax a method takes the trajectory that it takes with plain dicts."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from tests.every_method.methods import METHODS, every_method
from tests.every_method.problem import STEPS, assert_close, at, batch, init, undisturbed

# Flax multiplies and adds biases with implicit promotion of dtypes and ranks.
pytestmark = pytest.mark.usefixtures("flax_promotion")


@pytest.fixture
def flax_promotion() -> Any:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _last(name: str) -> chex.ArrayTree:
    return at(-1, undisturbed(name)[0])


def _loss(prediction: chex.Array, y: chex.Array) -> chex.Array:
    return jnp.mean((jnp.tanh(prediction) - y) ** 2)


@every_method
def test_linen_in_a_train_state(name: str) -> None:
    """`TrainState.apply_gradients` keeps its keywords to itself, so the update is spelt out."""
    layer = nn.Dense(2, param_dtype=jnp.float64)
    state = TrainState.create(
        apply_fn=layer.apply, params={"params": init()}, tx=METHODS[name].optimizer()
    )

    @jax.jit
    def step(state: TrainState, k: chex.Array) -> TrainState:
        x, y = batch(k)
        grad_fn = jax.grad(lambda params: _loss(state.apply_fn(params, x), y))
        updates, opt_state = state.tx.update(
            grad_fn(state.params), state.opt_state, state.params, grad_fn=grad_fn
        )
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state)

    for k in range(STEPS):
        state = step(state, jnp.int32(k))
    assert_close(state.params["params"], _last(name))


def _nnx_layer() -> nnx.Linear:
    layer = nnx.Linear(3, 2, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    nnx.update(layer, nnx.State({k: nnx.Param(v) for k, v in init().items()}))
    return layer


@every_method
def test_nnx_optimizer(name: str) -> None:
    """`nnx.Optimizer.update` hands its keywords on to the transformation."""
    layer = _nnx_layer()
    optimizer = nnx.Optimizer(layer, METHODS[name].optimizer(), wrt=nnx.Param)

    @nnx.jit
    def step(layer: nnx.Linear, optimizer: nnx.Optimizer, k: chex.Array) -> None:
        x, y = batch(k)
        graphdef, params = nnx.split(layer, nnx.Param)

        def grad_fn(params: nnx.State) -> nnx.State:
            return jax.grad(lambda p: _loss(nnx.merge(graphdef, p, copy=True)(x), y))(params)

        optimizer.update(layer, grad_fn(params), grad_fn=grad_fn)

    for k in range(STEPS):
        step(layer, optimizer, jnp.int32(k))
    assert_close(nnx.to_pure_dict(nnx.state(layer, nnx.Param)), _last(name))


@every_method
def test_nnx_state_as_parameters(name: str) -> None:
    tx = METHODS[name].optimizer()
    graphdef, params = nnx.split(_nnx_layer())

    @jax.jit
    def step(params: nnx.State, state: Any, k: chex.Array) -> tuple[nnx.State, Any]:
        x, y = batch(k)

        def grad_fn(params: nnx.State) -> nnx.State:
            return jax.grad(lambda p: _loss(nnx.merge(graphdef, p, copy=True)(x), y))(params)

        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for k in range(STEPS):
        params, state = step(params, state, jnp.int32(k))
    assert_close(nnx.to_pure_dict(params), _last(name))
