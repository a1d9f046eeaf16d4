"""`nnx_value_and_grad`: the first pass is Flax's, and the second begins where that one began."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import xsam_jax

# Flax multiplies and adds biases with implicit promotion of dtypes and ranks.
pytestmark = pytest.mark.usefixtures("flax_promotion")


@pytest.fixture
def flax_promotion() -> Any:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


X = jax.random.normal(jax.random.key(0), (6, 4), jnp.float32)


class Net(nnx.Module):
    """With dropout, BatchNorm, a tied kernel and a count of its calls."""

    def __init__(self, own: bool = True) -> None:
        rngs = nnx.Rngs(0, dropout=1)
        self.hidden = nnx.Linear(4, 4, rngs=rngs)
        self.tied = nnx.Linear(4, 4, rngs=rngs)
        self.tied.kernel = self.hidden.kernel
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs if own else None)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x: Any, rngs: nnx.Rngs | None = None) -> chex.Array:
        self.calls[...] += 1
        return self.tied(self.drop(self.norm(self.hidden(x)), rngs=rngs))


class Frozen(nnx.Module):
    def __init__(self) -> None:
        self.body, self.head = Net(), nnx.LoRA(4, 2, 3, rngs=nnx.Rngs(2))

    def __call__(self, x: Any) -> chex.Array:
        return self.head(self.body(x))


def squares(model: Any, x: Any = X) -> chex.Array:
    return jnp.mean((model(x) - 1) ** 2)


def with_output(model: Any, x: Any) -> tuple[chex.Array, dict[str, chex.Array]]:
    output = model(x)
    return jnp.mean((output - 1) ** 2), {"output": output}


def beside(batch: Any, model: Any, rngs: nnx.Rngs, weight: float = 1.0) -> chex.Array:
    return weight * jnp.mean((model(batch["x"], rngs) - 1) ** 2)


def named(model: Any, rngs: nnx.Rngs, name: str, options: Any) -> chex.Array:
    """With arguments that are no arrays."""
    assert name == "train"
    return options["scale"] * jnp.mean(options["activation"](model(X, rngs)) ** 2)


class Case(NamedTuple):
    loss_fn: Callable[..., Any]
    args: Callable[[], tuple[Any, ...]]
    argnum: int = 0
    wrt: Any = nnx.Param
    has_aux: bool = False


HEAD = nnx.All(nnx.Param, nnx.PathContains("head"))
CASES = {
    "model alone": Case(squares, lambda: (Net(),)),
    "auxiliary values": Case(with_output, lambda: (Net(), X), has_aux=True),
    "rngs beside": Case(beside, lambda: ({"x": X}, Net(False), nnx.Rngs(3)), argnum=1),
    "no arrays": Case(
        named,
        lambda: (Net(False), nnx.Rngs(3), "train", {"scale": 2.0, "activation": jnp.tanh}),
    ),
    "LoRA": Case(squares, lambda: (Frozen(),), wrt=nnx.LoRAParam),
    "a part": Case(squares, lambda: (Frozen(),), wrt=HEAD),
    "two models": Case(
        lambda models: jnp.mean(models.a(models.b(X)) ** 2),
        lambda: (nnx.Dict(a=Net(), b=Net()),),
    ),
}


def state_of(args: Any) -> Any:
    """All variables in the arguments, random keys as numbers."""
    pure = nnx.as_pure([nnx.state(arg) for arg in args if isinstance(arg, nnx.Pytree)])
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, pure)


@pytest.mark.parametrize(
    ("name", "jit"), [*((name, True) for name in CASES), ("rngs beside", False)]
)
def test_both_passes(name: str, jit: bool) -> None:
    loss_fn, make, argnum, wrt, has_aux = CASES[name]
    given = make()
    variables = [arg for arg in given if isinstance(arg, nnx.Pytree)]

    def arguments(variables: list[Any]) -> tuple[Any, ...]:
        left = iter(variables)
        return tuple(next(left) if isinstance(arg, nnx.Pytree) else arg for arg in given)

    options: dict[str, Any] = {"argnums": nnx.DiffState(argnum, wrt), "has_aux": has_aux}
    moved = lambda params: jax.tree.map(lambda leaf: leaf + 0.1, params)

    def ours(variables: list[Any]) -> Any:
        args = arguments(variables)
        params = nnx.as_pure(nnx.state(args[argnum], wrt))
        value, grads, grad_fn = xsam_jax.nnx_value_and_grad(loss_fn, **options)(*args)
        return value, nnx.as_pure(grads), grad_fn(params), grad_fn(moved(params))

    def flax_s(variables: list[Any]) -> Any:
        args, other = arguments(variables), arguments(nnx.clone(variables))
        params = nnx.as_pure(nnx.state(args[argnum], wrt))
        nnx.update(other[argnum], moved(params))
        value, grads = nnx.value_and_grad(loss_fn, **options)(*args)
        _, adversarial = nnx.value_and_grad(loss_fn, **options)(*other)
        return value, nnx.as_pure(grads), nnx.as_pure(grads), nnx.as_pure(adversarial)

    again = nnx.clone(variables)
    found = (nnx.jit(ours) if jit else ours)(variables)
    expected = nnx.jit(flax_s)(again)
    chex.assert_trees_all_equal_structs(found, expected)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)
    assert not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), *found[2:]))
    chex.assert_trees_all_close(state_of(variables), state_of(again), rtol=1e-6)
    graphs = [nnx.graphdef(node) for node in (variables, again)]
    assert graphs[0] == graphs[1]


def test_the_model_by_its_name() -> None:
    value, grads, grad_fn = xsam_jax.nnx_value_and_grad(squares)(x=2 * X, model=Net())
    expected, its = nnx.value_and_grad(squares)(Net(), 2 * X)
    chex.assert_trees_all_close(value, expected)
    chex.assert_trees_all_close(nnx.as_pure(grads), nnx.as_pure(its))
    params = nnx.as_pure(nnx.state(Net(), nnx.Param))
    chex.assert_trees_all_close(grad_fn(params), nnx.as_pure(its), rtol=1e-5)


@pytest.mark.parametrize(
    ("wrt", "wrapped"),
    [
        (nnx.Param, lambda method: method),
        (nnx.LoRAParam, lambda method: method),
        (HEAD, lambda method: method),  # fewer variables than nnx_value_and_grad is told of
        (nnx.Param, lambda method: optax.MultiSteps(method, 1)),
    ],
)
def test_in_an_optimizer(wrt: Any, wrapped: Any) -> None:
    """One step against SAM's formula, with the statistics and the counters of one pass."""
    rho, rate = 0.3, 0.1
    model = Frozen()
    method = wrapped(optax.chain(xsam_jax.sam(rho), optax.sgd(rate)))
    optimizer = nnx.Optimizer(model, method, wrt=wrt)
    argnums = nnx.DiffState(0, nnx.LoRAParam) if wrt is nnx.LoRAParam else 0

    @nnx.jit
    def step(model: Any, optimizer: Any) -> Any:
        _, grads, grad_fn = xsam_jax.nnx_value_and_grad(squares, argnums=argnums)(model)
        optimizer.update(model, grads, grad_fn=grad_fn)

    @nnx.jit
    def formula(model: Any) -> Any:
        graphdef, params, rest = nnx.split(model, wrt, ...)
        net_of = functools.partial(nnx.merge, graphdef, copy=True)
        gradient = jax.grad(lambda params: squares(net_of(params, rest)))
        params = nnx.as_pure(params)
        grads = gradient(params)
        scale = rho / optax.tree.norm(grads)
        adversarial = gradient(jax.tree.map(lambda w, g: w + scale * g, params, grads))
        squares(model)  # the clean pass
        return jax.tree.map(lambda w, g: w - rate * g, params, adversarial)

    twin = nnx.clone(model)
    nnx.update(twin, formula(twin))
    step(model, optimizer)
    chex.assert_trees_all_close(state_of([model]), state_of([twin]), rtol=1e-5, atol=1e-6)


def test_some_leaves_in_optax_masked() -> None:
    model = Net()
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    mask = jax.tree.map(lambda leaf: leaf.ndim == 2, params)
    method = optax.chain(optax.masked(xsam_jax.sam(), mask), optax.sgd(0.1))
    optimizer = nnx.Optimizer(model, method, wrt=nnx.Param)
    _, grads, grad_fn = xsam_jax.nnx_value_and_grad(squares)(model)
    optimizer.update(model, grads, grad_fn=xsam_jax.masked_grad_fn(grad_fn, params))
    after = nnx.as_pure(nnx.state(model, nnx.Param))
    plain = params["norm"]["bias"] - 0.1 * nnx.as_pure(grads)["norm"]["bias"]
    chex.assert_trees_all_close(after["norm"]["bias"], plain, rtol=1e-6)
