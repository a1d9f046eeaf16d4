"""On several devices: sharded parameters under `jax.jit`, and `jax.shard_map`."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.every_method.methods import METHODS, every_method
from tests.every_method.problem import assert_close, at
from tests.meshes import mesh_of

SPECS = {"kernel": P("data", None), "bias": P()}
INIT = {"kernel": np.linspace(0.1, 1.2, 24).reshape(8, 3), "bias": np.linspace(-1, 1, 3)}


def gradient(params: chex.ArrayTree) -> chex.ArrayTree:
    return jax.tree.map(jnp.sin, params)  # elementwise: explicit axes want no advice


def steps(name: str, params: chex.ArrayTree) -> tuple[chex.ArrayTree, Any]:
    tx = METHODS[name].optimizer()

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        updates, state = tx.update(gradient(params), state, params, grad_fn=gradient)
        return (jax.tree.map(jnp.add, params, updates), state), None

    found: tuple[Any, Any] = jax.lax.scan(step, (params, tx.init(params)), length=3)[0]
    return found


@pytest.mark.parametrize("known", [True, False], ids=["set_mesh", "no set_mesh"])
@pytest.mark.parametrize(
    "axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name
)
@every_method
def test_sharded_parameters(name: str, axis_type: AxisType, known: bool) -> None:
    """The steps of one device, and a state that is sharded like the parameters."""
    mesh = mesh_of(4, kind=axis_type)
    shardings = {leaf: NamedSharding(mesh, spec) for leaf, spec in SPECS.items()}
    sharded = jax.tree.map(jax.device_put, INIT, shardings)
    with jax.set_mesh(mesh) if known else nullcontext():
        params, state = jax.jit(steps, static_argnums=0)(name, sharded)
    assert_close((params, state), jax.jit(steps, static_argnums=0)(name, INIT), atol=1e-6)
    copies = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (8, 3)]
    assert len(copies) >= METHODS[name].copies
    for leaf in (params["kernel"], *copies):
        assert leaf.sharding.is_equivalent_to(shardings["kernel"], 2)


@every_method
def test_parameters_divided_around_the_gradient(name: str) -> None:
    """FSDP as docs/devices.md says: `jax.shard_map` around the gradient, the method outside."""
    mesh = mesh_of(8)
    x = np.random.default_rng(0).normal(size=(16, 8))

    def loss(params: Any, x: chex.Array) -> chex.Array:
        return jnp.mean(jnp.sin(x @ params["kernel"] + params["bias"][None]) ** 2)

    def local_loss(params: Any, x: chex.Array) -> chex.Array:
        kernel = jax.lax.all_gather(params["kernel"], "data", tiled=True)
        return loss({**params, "kernel": kernel}, x) / mesh.size  # JAX sums over the devices

    local_gradient: Callable[[Any, chex.Array], Any] = jax.grad(local_loss)
    divided = jax.shard_map(local_gradient, mesh=mesh, in_specs=(SPECS, P("data")), out_specs=SPECS)

    def train(gradient: Any, params: Any, x: chex.Array) -> tuple[Any, Any]:
        tx = METHODS[name].optimizer()

        def step(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            grad_fn = lambda params: gradient(params, x)
            updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
            return (jax.tree.map(jnp.add, params, updates), state), None

        found: tuple[Any, Any] = jax.lax.scan(step, (params, tx.init(params)), length=3)[0]
        return found

    shardings = {leaf: NamedSharding(mesh, spec) for leaf, spec in SPECS.items()}
    params = jax.tree.map(jax.device_put, INIT, shardings)
    found = jax.jit(partial(train, divided))(params, x)
    assert_close(found, jax.jit(partial(train, jax.grad(loss)))(INIT, x), atol=1e-5)
    assert found[0]["kernel"].sharding.is_equivalent_to(shardings["kernel"], 2)


@every_method
def test_each_device_by_itself(name: str) -> None:
    """For the check of `jax.shard_map`: all of the state but its count may differ between them."""
    mesh = mesh_of(2)

    def run(scale: chex.Array) -> tuple[chex.ArrayTree, Any]:
        return steps(name, jax.tree.map(lambda leaf: scale * leaf, INIT))

    def on_device(scales: chex.Array) -> tuple[chex.ArrayTree, Any]:
        return jax.tree.map(lambda leaf: leaf[None], run(scales[0]))

    scales = jnp.array([1.0, 0.5])
    each = jax.shard_map(on_device, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    found, one = jax.jit(each)(scales), jax.jit(run)
    for i in range(2):
        assert_close(at(i, found), one(scales[i]), atol=1e-6)
