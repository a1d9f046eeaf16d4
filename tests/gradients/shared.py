"""A small loss, its gradients on several devices, and steps of a method with them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from tests.meshes import mesh_of

Tree = dict[str, chex.Array]
Loss = Callable[[Tree, chex.Array], chex.Array]
_rng = np.random.default_rng(0)
INIT = {"bias": _rng.normal(size=3), "kernel": _rng.normal(size=(4, 3))}
X = _rng.normal(size=(8, 4))
BOTH = {"bias": True, "kernel": True}
NONE = {"bias": False, "kernel": False}


def params_of() -> Tree:
    return {name: jnp.asarray(leaf) for name, leaf in INIT.items()}


def loss(params: Tree, x: chex.Array) -> chex.Array:
    return jnp.mean(jnp.sin(x @ params["kernel"] + params["bias"][None]) ** 2)


def cast(leaf: chex.Array, axis: Any = "data") -> chex.Array:
    """Cast a tree to vary over an axis, where it does not vary already."""
    axes = {axis} if isinstance(axis, str) else {*axis}
    missing = tuple(axes - jax.typeof(leaf).manual_axis_type.varying)
    varying: chex.Array = lax.pcast(leaf, missing, to="varying") if missing else leaf
    return varying


def gradient(
    loss: Loss, casts: dict[str, bool], x: chex.Array, axis: Any = "data"
) -> Callable[[Tree], Tree]:
    def grad_fn(params: Tree) -> Tree:
        params = {k: cast(leaf, axis) if casts[k] else leaf for k, leaf in params.items()}
        grads: Tree = jax.grad(loss)(params, x)
        return grads

    return grad_fn


def step(tx: Any, grad_fn: Any, params: Tree, **extra: Any) -> tuple[Tree, Any]:
    found: tuple[Tree, Any] = tx.update(
        grad_fn(params), tx.init(params), params, grad_fn=grad_fn, **extra
    )
    return found


def on_devices(run: Callable[[Tree, chex.Array], Any], **options: Any) -> Any:
    defaults = {"mesh": mesh_of(4), "in_specs": (P(), P("data")), "out_specs": P()}
    sharded: Any = partial(jax.shard_map, **(defaults | options))(run)
    return jax.jit(sharded)(params_of(), jnp.asarray(X))


def close(actual: Any, expected: Any) -> None:
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-9)
