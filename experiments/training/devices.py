"""Where the arrays of a training run lie on several devices.

The devices form one axis, ``data``. Each takes its part of every batch; the training data lie on
all of them. Parameters and what the optimizer keeps for them, such as an eigenvector, are the same
on every device, or with ``fsdp`` each device keeps its part of them. A step is written for the
whole batch, so that it takes the trajectory of one device but for the order of sums. Only the
gradient is written for a device's part (`Devices.gradient`): so one all-reduce brings it all.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.common.errors import UserError

Tree = TypeVar("Tree")
# (params, batch_stats, batch) -> gradient of the mean loss, other means over the batch, and the
# new batch statistics
Gradient = Callable[[Any, Any, Any], tuple[Any, Any, Any]]

AXIS = "data"
_EVERYWHERE = PartitionSpec()


class Devices(NamedTuple):
    """The devices of a run, by default one; then no method here changes anything.

    Attributes:
        mesh: Several devices, on the axis ``data``.
        fsdp: Whether each keeps only its part of the parameters.
    """

    mesh: Mesh | None = None
    fsdp: bool = False

    def check_batch(self, batch_size: int, option: str = "--batch-size") -> None:
        """Raises `UserError` unless all devices get as many images of a batch or its part."""
        if self.mesh is not None and batch_size % self.mesh.size:
            raise UserError(
                f"{option} must be divisible by the {self.mesh.size} devices, not "
                f"{batch_size}; --devices says how many to use."
            )

    def spec(self, leaf: chex.Array) -> PartitionSpec:
        """Say how an array of parameters is divided: along its longest axis that can be."""
        if self.mesh is None or not self.fsdp:
            return _EVERYWHERE
        lengths = [length if length % self.mesh.size == 0 else 0 for length in leaf.shape]
        if not any(lengths):
            return _EVERYWHERE
        axis = int(np.argmax(lengths))
        return PartitionSpec(*[None] * axis, AXIS)

    def place(self, params: Tree) -> Tree:
        """Copy parameters, or a state like them, into new buffers on the devices they belong to."""
        return self._put(params, self.spec)

    def replicate(self, tree: Tree) -> Tree:
        """Copy arrays of this host into new buffers on every device."""
        return self._put(tree, lambda _: _EVERYWHERE)

    def fetch(self, tree: Tree) -> Tree:
        """Copy arrays of the devices into the memory of every host."""

        def fetched(leaf: chex.Array) -> chex.Array:
            if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
                leaf = self.whole(leaf)
            return np.asarray(leaf)

        on_host: Tree = jax.tree.map(fetched, tree)
        return on_host

    def whole(self, params: Tree) -> Tree:
        """Gather parameters, so that every device has all of them."""
        if not self.fsdp:
            return params
        gathered: Tree = jax.jit(lambda x: x, out_shardings=self._sharding(_EVERYWHERE))(params)
        return gathered

    def keep(self, params: Tree) -> Tree:
        """Under `jax.jit`: keep parameters, or a state like them, on the devices they belong to."""
        return self._constrain(params, self.spec)

    def split(self, batch: Tree) -> Tree:
        """Under `jax.jit`: divide a batch among the devices."""
        return self._constrain(batch, lambda _: PartitionSpec(AXIS))

    def known(self) -> AbstractContextManager[Any]:
        """Under `jax.jit`: tell xsam_jax of the devices, as `jax.set_mesh` does."""
        if self.mesh is None:
            return nullcontext()
        return jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh)

    def gradient(self, local: Gradient) -> Gradient:
        """Make the gradient of a batch from those of the devices' parts of it.

        One all-reduce takes the gradient and the scalars beside it; with ``fsdp`` an all-gather
        brings the parameters and a reduce-scatter takes the gradient apart. The compiler alone
        would reduce every term of a sum, and a Hessian-vector product has two for a layer.

        Args:
            local: Gradient of a part. Its BatchNorm averages over ``AXIS``.

        Returns:
            Gradient of a batch.
        """
        if self.mesh is None:
            return local
        mesh = self.mesh

        def gathered(leaf: chex.Array, spec: PartitionSpec) -> chex.Array:
            if AXIS in spec:
                return lax.all_gather(leaf, AXIS, axis=spec.index(AXIS), tiled=True)
            return lax.pcast(leaf, AXIS, to="varying")

        def mean(leaf: chex.Array, spec: PartitionSpec = _EVERYWHERE) -> chex.Array:
            if AXIS in spec:
                axis = spec.index(AXIS)
                return lax.psum_scatter(leaf, AXIS, scatter_dimension=axis, tiled=True) / mesh.size
            return lax.pmean(leaf, AXIS)

        def whole_batch(params: Any, batch_stats: Any, batch: Any) -> tuple[Any, Any, Any]:
            specs = jax.tree.map(self.spec, params)

            def on_each(params: Any, batch_stats: Any, batch: Any) -> tuple[Any, Any, Any]:
                params = jax.tree.map(gathered, params, specs)
                grads, means, batch_stats = local(params, batch_stats, batch)
                return jax.tree.map(mean, grads, specs), jax.tree.map(mean, means), batch_stats

            in_specs = (specs, _EVERYWHERE, PartitionSpec(AXIS))
            out_specs = (specs, _EVERYWHERE, _EVERYWHERE)
            averaged: tuple[Any, Any, Any] = jax.shard_map(
                on_each, mesh=mesh, in_specs=in_specs, out_specs=out_specs
            )(params, batch_stats, batch)
            return averaged

        return whole_batch

    def _sharding(self, spec: PartitionSpec) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, spec)

    def _put(self, tree: Tree, spec: Callable[[chex.Array], PartitionSpec]) -> Tree:
        def put(leaf: chex.Array) -> jax.Array:
            if self.mesh is None:
                return jnp.array(leaf)
            # Unlike jax.device_put it asks no other host whether it has the same array.
            host = np.asarray(leaf)
            return jax.make_array_from_callback(
                host.shape, self._sharding(spec(host)), host.__getitem__
            )

        on_devices: Tree = jax.tree.map(put, tree)
        return on_devices

    def _constrain(self, tree: Tree, spec: Callable[[chex.Array], PartitionSpec]) -> Tree:
        if self.mesh is None:
            return tree
        shardings = jax.tree.map(lambda leaf: self._sharding(spec(leaf)), tree)
        kept: Tree = lax.with_sharding_constraint(tree, shardings)
        return kept


ONE_DEVICE = Devices()


def choose(count: int | None = None, *, fsdp: bool = False) -> Devices:
    """Choose the devices of a run.

    Args:
        count: How many to use, None for all; those of several hosts are used all.
        fsdp: See `Devices`.

    Returns:
        The first ``count`` of those there are.

    Raises:
        UserError: There are not so many.
    """
    there = jax.devices()
    count = len(there) if count is None else count
    low = 1 if jax.process_count() == 1 else len(there)
    if not low <= count <= len(there):
        raise UserError(f"--devices must be in [{low}, {len(there)}], not {count}.")
    if count == 1:
        return ONE_DEVICE
    mesh = jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=there[:count])
    return Devices(mesh, fsdp)
