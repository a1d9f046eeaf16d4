"""Mistakes that users of other libraries make: the error names the argument and the way out."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import xsam_jax
from xsam_jax import curvature

LONGEST = 500  # characters of a message; a structure as JAX prints it takes 1,500


pytestmark = pytest.mark.usefixtures("float32_as_users_do")


W = {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}
X = jnp.ones((4, 3))


def loss(w: chex.ArrayTree, x: Any = X) -> chex.Array:
    return jnp.mean(jnp.tanh(x @ w["dense"]["kernel"] + w["dense"]["bias"]) ** 2)


def with_aux(w: chex.ArrayTree) -> Any:
    return loss(w), {"accuracy": jnp.ones(())}


def all_needed(w: chex.ArrayTree, x: Any, y: Any) -> chex.Array:
    return loss(w, x) + y


def update(tx: Any, updates: Any = W, **given: Any) -> None:
    jax.eval_shape(lambda state: tx.update(updates, state, W, **given), tx.init(W))


def chained(grad_fn: Any) -> None:
    update(optax.chain(xsam_jax.sam(), optax.sgd(0.1)), grad_fn=grad_fn)


def in_multi_steps(grad_fn: Any) -> None:
    update(optax.MultiSteps(optax.chain(xsam_jax.sam(), optax.sgd(0.1)), 2), grad_fn=grad_fn)


def of_curvature(grad_fn: Any) -> None:
    update(xsam_jax.xsam(), grad_fn=jax.grad(loss), curvature_grad_fn=grad_fn)


def measured(grad_fn: Any) -> None:
    jax.eval_shape(lambda: curvature.trace(grad_fn, W, key=jax.random.key(0)))


@contextlib.contextmanager
def refused(error: type[Exception], *names: str) -> Iterator[Any]:
    """Raises with a short message that has these names, in this order."""
    with pytest.raises(error) as caught:
        yield caught
    message = str(caught.value)
    assert re.search(".*".join(map(re.escape, names)), message, re.DOTALL), message
    assert len(message) < LONGEST


class Model(NamedTuple):
    """A model as Equinox has them: what is no array is None in the parameters."""

    kernel: Any
    activation: Any

    def __call__(self, x: Any) -> chex.Array:
        return jnp.mean(self.activation(x @ self.kernel))


MISTAKES: dict[str, tuple[Any, type[Exception], tuple[str, ...]]] = {
    "of optax.contrib.sam": (
        lambda w, i: jax.grad(loss)(w),
        TypeError,
        ("grad_fn(params)", "optax.contrib.sam", "'i'"),
    ),
    "the batch is missing": (
        jax.jit(jax.grad(all_needed)),
        TypeError,
        ("grad_fn=lambda params: jax.grad(loss_fn)(params, batch)", "'x' and 'y'"),
    ),
    "the batch is missing in nnx": (
        nnx.grad(all_needed),
        TypeError,
        ("grad_fn=lambda params: jax.grad(loss_fn)(params, batch)", "'x'"),
    ),
    "value": (
        jax.value_and_grad(loss),
        ValueError,
        ("the result of ", "grad_fn", "the root", "jax.value_and_grad", "[1]"),
    ),
    "value and auxiliary value": (
        jax.value_and_grad(with_aux, has_aux=True),
        ValueError,
        ("the result of ", "grad_fn", "the root", "jax.value_and_grad", "[1]"),
    ),
    "auxiliary value": (
        jax.grad(with_aux, has_aux=True),
        ValueError,
        ("the result of ", "grad_fn", "the root", "has_aux=True", "[0]"),
    ),
    "a model": (
        jax.grad(lambda model: jnp.mean(model(X))),
        TypeError,
        (
            "grad_fn must take parameters, here a dict",
            "nnx.merge",
            "nnx_value_and_grad",
            "callable",
        ),
    ),
    "a leaf is missing": (
        lambda w: {"dense": {"kernel": w["dense"]["kernel"]}},
        ValueError,
        ("the result of ", "['dense']", "'bias', 'kernel' is expected", "dict of 'kernel'"),
    ),
    "a leaf is None": (
        lambda w: {"dense": {**w["dense"], "bias": None}},
        ValueError,
        ("the result of ", "['dense']['bias']", "float32[2]", "None"),
    ),
}


@pytest.mark.parametrize("way", [chained, in_multi_steps, of_curvature, measured])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, way: Callable[[Any], None]) -> None:
    grad_fn, error, names = MISTAKES[mistake]
    name = "curvature_grad_fn" if way is of_curvature else "grad_fn"
    with refused(error, *(text.replace("grad_fn=", f"{name}=") for text in names)) as caught:
        way(grad_fn)
    assert re.search(rf"\b{name}\b", str(caught.value))


def test_a_type_error_of_the_loss_is_left_as_it_is() -> None:
    for grad_fn in (
        lambda w: jax.grad(lambda w: all_needed(w))(w),  # type: ignore[call-arg]
        lambda w: jax.grad(lambda w: w["dense"]["kernel"]())(w),
        lambda w: {}.kernel,  # type: ignore[attr-defined]
    ):
        with pytest.raises((TypeError, AttributeError)) as caught:
            chained(grad_fn)
        assert "grad_fn" not in str(caught.value)


def test_updates_with_their_value() -> None:
    with refused(ValueError, "updates", "jax.value_and_grad", "[1]"):
        update(xsam_jax.sam(), updates=jax.value_and_grad(loss)(W), grad_fn=jax.grad(loss))


def test_settings_that_equinox_leaves_out() -> None:
    params = Model(jnp.ones((3, 2)), None)
    tx = xsam_jax.sam()
    with refused(TypeError, "grad_fn", "Model", "equinox.combine(params, static)", "NoneType"):
        tx.update(params, tx.init(params), params, grad_fn=jax.grad(lambda model: model(X)))


def test_gradients_in_the_place_of_their_function() -> None:
    with refused(TypeError, "grad_fn must be a function", "dict of 'dense'"):
        chained(jax.grad(loss)(W))


@pytest.mark.parametrize("given", [{}, {"grad_fn": jax.grad(loss)}])
def test_the_train_state_of_flax_keeps_it_to_itself(given: dict[str, Any]) -> None:
    tx = optax.chain(xsam_jax.sam(), optax.sgd(0.1))
    state = TrainState.create(apply_fn=None, params=W, tx=tx)
    with refused(ValueError, "grad_fn", "TrainState.apply_gradients", "state.tx.update", "grad_fn"):
        jax.eval_shape(lambda state: state.apply_gradients(grads=W, **given), state)


class Net(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.dense, self.norm = nnx.Linear(3, 2, rngs=rngs), nnx.BatchNorm(2, rngs=rngs)

    def __call__(self, x: Any) -> chex.Array:
        return jnp.mean(self.norm(self.dense(x)) ** 2)


def of_net(model: Any) -> chex.Array:
    value: chex.Array = model(X)
    return value


def update_net(make: Callable[..., Any]) -> None:
    model = Net()
    method = optax.chain(xsam_jax.sam(), optax.sgd(0.1))
    optimizer = nnx.Optimizer(model, method, wrt=nnx.Param)

    @nnx.jit
    def step(model: Net, optimizer: Any) -> None:
        grads = nnx.grad(of_net)(model)
        optimizer.update(model, grads, grad_fn=make(model, *nnx.split(model, nnx.Param, ...)))

    step(model, optimizer)


NNX: dict[str, tuple[Any, type[Exception], tuple[str, ...]]] = {
    "none": (lambda *_: None, ValueError, ("grad_fn", "None", "nnx.Optimizer.update")),
    "parameters for a model": (
        lambda *_: nnx.grad(of_net),
        TypeError,
        ("grad_fn", "State", "nnx.merge", "copy=True", "nnx_value_and_grad", "not callable"),
    ),
    "parts of them": (
        lambda *_: jax.grad(lambda model: model.head(X)),
        TypeError,
        ("grad_fn", "State", "nnx.merge", "nnx_value_and_grad", "'head'"),
    ),
    "another model": (
        lambda model, *_: lambda params: nnx.as_pure(nnx.grad(of_net)(model)),
        ValueError,
        ("grad_fn", "nnx.merge", "nnx_value_and_grad", "trace level"),
    ),
    "no copy": (
        lambda _, graph, params, rest: jax.grad(lambda p: of_net(nnx.merge(graph, p, rest))),
        TypeError,
        ("grad_fn", "copy=True", "nnx_value_and_grad", "trace level"),
    ),
    "variables": (
        lambda _, graph, params, rest: (
            lambda p: nnx.grad(of_net)(nnx.merge(graph, p, rest, copy=True))
        ),
        ValueError,
        ("the result of grad_fn", "['dense']['bias']", "float32[2]", "Param", "nnx.as_pure"),
    ),
}


@pytest.mark.parametrize("mistake", NNX)
def test_mistakes_in_nnx(mistake: str) -> None:
    make, error, names = NNX[mistake]
    with refused(error, *names):
        update_net(make)


def test_the_way_out_of_variables() -> None:
    update_net(
        lambda _, graph, params, rest: (
            lambda p: nnx.as_pure(nnx.grad(of_net)(nnx.merge(graph, p, rest, copy=True)))
        )
    )


@pytest.mark.parametrize("pure", ["updates", "params"])
def test_variables_on_one_side(pure: str) -> None:
    model, tx = Net(), xsam_jax.sam()
    updates, params = nnx.grad(of_net)(model), nnx.state(model, nnx.Param)
    if pure == "updates":
        updates = nnx.as_pure(updates)
    else:
        params = nnx.as_pure(params)
    with refused(ValueError, "updates", "['dense']['bias']", "Param", "nnx.as_pure", " of "):
        tx.update(updates, tx.init(params), params, grad_fn=lambda p: p)
