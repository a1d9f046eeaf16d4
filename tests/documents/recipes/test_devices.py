"""On eight devices, against one."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from tests.documents.blocks import recipe, run
from tests.documents.recipes.by_hand import descend, sam_gradient
from tests.meshes import mesh_of
from xsam_jax import oja, sam, xsam

FSDP = recipe("devices", "Parameters divided over the devices (FSDP), by the compiler")
SHARD_MAP = recipe("devices", "A part of the batch on each device, by hand")
BASE = optax.sgd(0.1, momentum=0.9)


def start() -> tuple[Any, ...]:
    normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
    params = {"hidden": normal(0, 16, 32) / 4, "bias": jnp.zeros(32), "out": normal(1, 32, 3) / 6}
    return params, normal(2, 64, 16), normal(3, 64, 3)


def on_one_device(loss_fn: Any) -> tuple[Any, Any]:
    """Parameters and state after three steps with the whole batch."""
    params, x, y = start()
    optimizer = optax.chain(xsam(eigenvector=oja()), BASE)
    state = optimizer.init(params)
    for _ in range(3):
        grad_fn = lambda params: jax.grad(loss_fn)(params, x, y)
        updates, state = optimizer.update(grad_fn(params), state, params, grad_fn=grad_fn)
        params = optax.apply_updates(params, updates)
    return params, state


def test_fsdp() -> None:
    """The numbers of one device, in parameters and a state of which each device has its part."""
    mesh_of(8)
    names = run(FSDP)
    found = names["params"], names["state"]
    chex.assert_trees_all_close(found, on_one_device(names["loss_fn"]), rtol=1e-12, atol=1e-12)
    parts = {"hidden": (2, 32), "bias": (4,), "out": (4, 3)}
    method, (trace, _) = found[1]
    for tree in (found[0], method.eigenvector, trace.trace):
        for name, leaf in tree.items():
            shards = leaf.addressable_shards
            assert len(shards) == 8
            assert {shard.data.shape for shard in shards} == {parts[name]}


def test_under_shard_map() -> None:
    mesh_of(8)
    names = run(SHARD_MAP)
    found = names["params"], names["state"]
    chex.assert_trees_all_close(found, on_one_device(names["loss_fn"]), rtol=1e-12, atol=1e-12)


def test_sum_over_the_devices_is_refused() -> None:
    """What the page says of check_vma=True, the default."""
    mesh_of(8)
    changes = {"out_specs=P(),\n         check_vma=False)": "out_specs=P())"}
    with pytest.raises(ValueError, match="check_vma"):
        run(SHARD_MAP, changes)


def test_m_sharpness() -> None:
    """The mean of the devices' gradients, each at its own perturbed parameters."""
    mesh_of(8)
    changes = {'xsam(eigenvector=oja(), axis_name="data")': "method"}
    names = run(SHARD_MAP, changes, method=sam(0.5, axis_name="data", per_device=True))
    params, x, y = start()
    state = BASE.init(params)
    for _ in range(3):
        parts = zip(x.reshape(8, 8, 16), y.reshape(8, 8, 3), strict=True)
        each = [sam_gradient(jax.grad(names["loss_fn"]), params, 0.5, *part) for part in parts]
        grads = jax.tree.map(lambda *grads: sum(grads) / 8, *each)
        params, state = descend(BASE, grads, state, params)
    chex.assert_trees_all_close(names["params"], params, rtol=1e-12, atol=1e-12)
