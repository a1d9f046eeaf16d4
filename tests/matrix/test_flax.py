"""In flax's training loops, with Linen's and NNX's parameters."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict
from flax.training.train_state import TrainState

from tests.matrix.methods import METHODS, every_method
from tests.matrix.problem import STEPS, assert_close, batch, grad_fn, init, jit, stack, undisturbed


@every_method
def test_train_state(name: str) -> None:
    """TrainState.apply_gradients passes nothing on, so tx.update is called by hand."""
    state = TrainState.create(
        apply_fn=lambda: None, params=FrozenDict(init()), tx=METHODS[name].optimizer()
    )

    @jit
    def stepped(state: TrainState, k: chex.Numeric) -> TrainState:
        gradient = grad_fn(k)
        updates, opt_state = state.tx.update(
            gradient(state.params), state.opt_state, state.params, grad_fn=gradient
        )
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state)

    trajectory = []
    for k in range(STEPS):
        state = stepped(state, k)
        trajectory.append(state.params.unfreeze())
    assert_close(stack(trajectory), undisturbed(name)[0])


@every_method
def test_apply_gradients_passes_no_grad_fn(name: str) -> None:
    state = TrainState.create(apply_fn=lambda: None, params=init(), tx=METHODS[name].optimizer())
    with pytest.raises(ValueError, match="grad_fn must be a function"):
        state.apply_gradients(grads=init(), grad_fn=grad_fn(0))


class Model(nnx.Module):
    def __init__(self) -> None:
        self.kernel, self.bias = nnx.Param(init()["kernel"]), nnx.Param(init()["bias"])

    def loss(self, k: chex.Numeric) -> chex.Array:
        x, y = batch(k)
        return jnp.mean((jnp.tanh(x @ self.kernel[...] + self.bias[...][None]) - y) ** 2)


@every_method
def test_nnx_optimizer(name: str) -> None:
    """``grad_fn`` is given the pure state of the parameters, and what it returns is one too."""
    model = Model()
    optimizer = nnx.Optimizer(model, METHODS[name].optimizer(), wrt=nnx.Param)

    @nnx.jit
    def stepped(model: Model, optimizer: nnx.Optimizer[Model], k: chex.Array) -> None:
        graphdef = nnx.graphdef(model)

        def pure_grad_fn(params: Any) -> Any:
            return jax.grad(lambda params: nnx.merge(graphdef, params).loss(k))(params)

        gradient = nnx.grad(lambda model: model.loss(k))(model)
        optimizer.update(model, gradient, grad_fn=pure_grad_fn)

    trajectory = []
    for k in range(STEPS):
        stepped(model, optimizer, jnp.asarray(k))
        trajectory.append({"kernel": model.kernel[...], "bias": model.bias[...]})
    assert_close(stack(trajectory), undisturbed(name)[0])
