"""Parameters that differ between devices, and trees that lie otherwise than the parameters."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import xsam_jax
from tests.gradients.shared import (
    BOTH,
    NONE,
    Tree,
    X,
    close,
    gradient,
    loss,
    on_devices,
    params_of,
    step,
)
from tests.meshes import mesh_of


def test_parameters_that_differ_are_refused() -> None:
    divided = {"in_specs": ({"bias": P(), "kernel": P("data")}, P()), "out_specs": P("data")}

    def differing(tx: Any, params: Tree, _: chex.Array) -> Any:
        return step(tx, lambda params: jax.tree.map(jnp.sin, params), params)

    for tx in (xsam_jax.sam(axis_name="data"), xsam_jax.friendly_sam(axis_name=("data",))):
        with pytest.raises(
            ValueError, match=r"^params must be the same .*'data'.* at \['kernel'\]"
        ):
            on_devices(partial(differing, tx), **divided)


def test_a_model_on_each_device_of_one_axis_and_its_data_on_another() -> None:
    mesh = mesh_of(2, 2, names=("model", "data"))
    scales = jnp.array([1.0, 0.5])

    def run(scale: chex.Array, x: chex.Array) -> Any:
        params = jax.tree.map(lambda leaf: scale[0] * leaf, params_of())
        found = step(xsam_jax.sam(axis_name="data"), gradient(loss, BOTH, x), params)[0]
        return jax.tree.map(lambda leaf: leaf[None], found)

    specs = (P("model"), P("data"))
    each = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P("model"))
    found = jax.jit(each)(scales, jnp.asarray(X))
    for i, scale in enumerate(scales):
        params = jax.tree.map(lambda leaf, scale=scale: scale * leaf, params_of())
        expected = step(xsam_jax.sam(), gradient(loss, NONE, jnp.asarray(X)), params)[0]
        close(jax.tree.map(lambda leaf, i=i: leaf[i], found), expected)


SPECS = {"bias": P("y"), "kernel": P("x", "y")}
OTHERS = {"bias": P("x"), "kernel": P("y", "x")}
WHERE: dict[str, Callable[[Any], Any]] = {
    "nowhere": lambda tree: tree,
    "otherwise": lambda tree: jax.tree.map(jax.sharding.reshard, tree, OTHERS),
}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("where", WHERE)
def test_trees_beside_the_parameters_of_explicit_axes(where: str, compiled: bool) -> None:
    """Wherever they lie: the numbers of one device, placed like the parameters."""
    init = {"bias": np.linspace(-1, 1, 4), "kernel": np.linspace(0.1, 1.2, 32).reshape(8, 4)}
    beside = jax.tree.map(np.cos, init)

    def measured(place: Callable[[Any], Any], params: Tree) -> Any:
        grad_fn = lambda params: place(jax.tree.map(jnp.sin, params))
        tracker = xsam_jax.power_iteration(iters=2, start=place(beside))
        curvature = xsam_jax.curvature
        return (
            step(xsam_jax.xsam(eigenvector=tracker), grad_fn, params),
            step(xsam_jax.friendly_sam(), grad_fn, params),
            curvature.hvp(grad_fn, params, place(beside)),
            curvature.angle(params, place(beside)),
            curvature.top_eigenpairs(
                grad_fn, params, num_matvecs=3, start=place(beside), key=jax.random.key(0)
            ).values,
        )

    mesh = mesh_of(2, 2, names=("x", "y"), kind=AxisType.Explicit)
    expected = jax.jit(partial(measured, WHERE["nowhere"]))(init)
    run = partial(measured, WHERE[where])
    with jax.set_mesh(mesh):
        params = jax.tree.map(jax.sharding.reshard, init, SPECS)
        found = (jax.jit(run) if compiled else run)(params)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-9)
    copies = [leaf for leaf in jax.tree.leaves(found[:2]) if leaf.shape == (8, 4)]
    assert len(copies) == 4
    assert all(leaf.sharding == params["kernel"].sharding for leaf in copies)
