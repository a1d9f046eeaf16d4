"""Inside `jax.shard_map`, which checks what differs between devices: each its own Hessian."""

from collections.abc import Callable
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests.meshes import mesh_of
from xsam_jax import curvature, mean_grad_fn

GradFn = Callable[[chex.Array], chex.Array]
KEY = jax.random.key(0)
BATCHES = np.random.default_rng(0).normal(size=(4, 8, 3))

FUNCTIONS: dict[str, Callable[[GradFn, chex.Array], chex.ArrayTree]] = {
    "hvp": lambda grad_fn, w: curvature.hvp(grad_fn, w, w),
    "hvp of a constant": lambda grad_fn, w: curvature.hvp(grad_fn, w, jnp.ones(3)),
    "top_eigenpairs": partial(curvature.top_eigenpairs, k=2, num_matvecs=3, key=KEY),
    "spectral_density": partial(curvature.spectral_density, num_matvecs=3, key=KEY),
    "trace": partial(curvature.trace, num_probes=3, key=KEY),
    "angle": lambda grad_fn, w: curvature.angle(grad_fn(w), w, layerwise=False),
}


@pytest.mark.parametrize("accumulated", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_device_by_itself(name: str, accumulated: bool) -> None:
    def measure(scale: chex.Array) -> chex.ArrayTree:
        # Without a scale of its own a loss multiplies constants with what differs: the strictest.
        loss = lambda w, x: jnp.mean(jnp.cos(x @ w))
        batches = jnp.asarray(BATCHES)
        grad_fn = mean_grad_fn(loss, batches) if accumulated else partial(jax.grad(loss), x=batches)
        return FUNCTIONS[name](grad_fn, scale * jnp.arange(1.0, 4.0))

    def on_device(scales: chex.Array) -> chex.ArrayTree:
        return jax.tree.map(lambda leaf: leaf[None], measure(scales[0]))

    mesh = mesh_of(2)
    each = jax.shard_map(on_device, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    scales = jnp.array([1.0, 0.5])
    found = jax.jit(each)(scales)
    for i in range(2):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        chex.assert_trees_all_close(one, jax.jit(measure)(scales[i]), rtol=1e-9, atol=1e-12)
