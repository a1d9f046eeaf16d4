"""What optax and flax do not pass on, and the errors that say so."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax.training.train_state import TrainState

from tests.every_method.methods import METHODS, every_method
from tests.every_method.problem import grad_fn, init

NO_GRAD_FN = r"grad_fn must be a function params -> gradient .* got None"


@every_method
def test_lookahead_takes_no_extra_arguments(name: str) -> None:
    params = optax.LookaheadParams.init_synced(init())
    tx = optax.lookahead(METHODS[name].optimizer(), sync_period=2, slow_step_size=0.5)
    state = tx.init(params)
    with pytest.raises(TypeError, match="unexpected keyword argument 'grad_fn'"):
        tx.update(params.fast, state, params, grad_fn=grad_fn(0))
    # A chain drops them on the way to it.
    with pytest.raises(ValueError, match=NO_GRAD_FN):
        optax.chain(tx).update(params.fast, (state,), params, grad_fn=grad_fn(0))


@every_method
def test_flatten_gives_grad_fn_one_vector(name: str) -> None:
    tx, params = optax.flatten(METHODS[name].optimizer()), init()
    shapes = set()

    def watched(params: Any) -> Any:
        shapes.add(jnp.shape(params))
        return params

    tx.update(params, tx.init(params), params, grad_fn=watched)
    assert shapes == {(sum(leaf.size for leaf in jax.tree.leaves(params)),)}


@every_method
def test_chain_around_multi_steps_drops_extra_arguments(name: str) -> None:
    """`MultiSteps.gradient_transformation()` is not of the type that takes them."""
    tx = optax.MultiSteps(METHODS[name].optimizer(), 2).gradient_transformation()
    params = init()
    with (
        jax.numpy_dtype_promotion("standard"),  # optax divides float64 by int32
        pytest.raises(ValueError, match=NO_GRAD_FN),
    ):
        optax.chain(tx).update(params, (tx.init(params),), params, grad_fn=grad_fn(0))


@every_method
def test_train_state_keeps_keywords_to_itself(name: str) -> None:
    """`apply_gradients` would set them as fields of the state."""
    state = TrainState.create(apply_fn=None, params=init(), tx=METHODS[name].optimizer())
    with pytest.raises(ValueError, match=NO_GRAD_FN):
        state.apply_gradients(grads=init(), grad_fn=grad_fn(0))


@every_method
def test_masked_without_masked_grad_fn_says_what_to_do(name: str) -> None:
    tx, params = optax.masked(METHODS[name].optimizer(), {"kernel": True, "bias": False}), init()
    with pytest.raises(Exception, match=r".") as error:
        tx.update(params, tx.init(params), params, grad_fn=grad_fn(0))
    assert "masked_grad_fn(grad_fn, params)" in "".join(error.value.__notes__)
