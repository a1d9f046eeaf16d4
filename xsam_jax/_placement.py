"""Where arrays lie, on meshes and along the axes of `jax.shard_map`, and when they are computed."""

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr
from jax.sharding import AxisType, PartitionSpec


def replicated(tree: chex.ArrayTree) -> chex.ArrayTree:
    """Keeps a tree whole on every device of the mesh of `jax.set_mesh`.

    For what each can compute by itself: the compiler may divide it, and then it must travel.
    """
    if set(jax.sharding.get_abstract_mesh().axis_types) != {AxisType.Auto}:
        return tree  # there is no mesh, or the caller places the arrays
    whole: chex.ArrayTree = lax.with_sharding_constraint(tree, PartitionSpec())
    return whole


def varying_axes(*trees: chex.ArrayTree) -> frozenset[str]:
    """The axes of `jax.shard_map` along which a leaf may differ, where JAX knows them."""
    leaves = jax.tree.leaves(trees)
    return frozenset().union(*(_varying(jax.typeof(leaf)) for leaf in leaves))


def _varying(aval: Any) -> frozenset[str]:
    kind = getattr(aval, "manual_axis_type", None)  # a token has none
    return frozenset() if kind is None else kind.varying


def varying_like(tree: chex.ArrayTree, like: chex.ArrayTree) -> chex.ArrayTree:
    """Declares that a tree may differ along all axes along which a leaf of ``like`` does.

    It is a matter of types: a loop must start from values of the type that its body returns.
    """
    axes = varying_axes(like)
    return jax.tree.map(lambda leaf: _varying_along(leaf, axes), tree)


def _varying_along(leaf: chex.Array, axes: frozenset[str]) -> chex.Array:
    missing = tuple(sorted(axes - varying_axes(leaf))) if axes else ()
    return lax.pcast(leaf, missing, to="varying") if missing else leaf


def mean(tree: chex.ArrayTree, axis_name: str | tuple[str, ...]) -> chex.ArrayTree:
    """Averages a tree over devices, also leaves that vary along one of two axes only."""
    axes = tracked_axes(axis_name)
    along = jax.tree.map(
        lambda leaf: _varying_along(leaf, axes) if axes & varying_axes(leaf) else leaf, tree
    )
    return lax.pmean(along, axis_name)


def tracked_axes(axis_name: str | tuple[str, ...] | None) -> frozenset[str]:
    """The axes of ``axis_name`` along which `jax.shard_map` tracks what varies (``check_vma``)."""
    return frozenset() if axis_name is None else varying_axes(lax.axis_index(axis_name))


def sources(
    function: Callable[[chex.ArrayTree], chex.ArrayTree], params: chex.ArrayTree
) -> list[frozenset[str]]:
    """Finds, for each leaf of a result, the axes along which its inputs differ.

    An axis along which the leaf itself is the same is one that it was reduced over.
    """
    jaxpr = jax.make_jaxpr(function)(params).jaxpr
    outputs = range(len(jaxpr.outvars))
    return [_axes_in(dce_jaxpr(jaxpr, [i == leaf for i in outputs])[0]) for leaf in outputs]


def _axes_in(jaxpr: core.Jaxpr) -> frozenset[str]:
    """The axes along which any value of ``jaxpr`` differs."""
    found: frozenset[str] = frozenset()
    for eqn in jaxpr.eqns:
        found = found.union(
            *(_varying(atom.aval) for atom in (*eqn.invars, *eqn.outvars)),
            *map(_axes_in, core.jaxprs_in_params(eqn.params)),
        )
    return found


def shard_like(tree: chex.ArrayTree, like: chex.ArrayTree) -> chex.ArrayTree:
    """Gives a tree the shardings of ``like``, where they are part of the types."""

    def reshard(leaf: chex.Array, like: chex.Array) -> chex.Array:
        target = jax.typeof(like).sharding
        there = target.mesh.empty or jax.typeof(leaf).sharding == target
        return leaf if there else jax.sharding.reshard(leaf, target)

    return jax.tree.map(reshard, tree, like)


def gathered(leaf: chex.Array) -> chex.Array:
    """Puts an array whole on every device, where its sharding is part of its type.

    On a mesh of explicit axes leaves of different shardings do not concatenate.
    """
    mesh = _mesh(leaf)
    if mesh.empty:
        return leaf
    return jax.sharding.reshard(leaf, jax.NamedSharding(mesh, PartitionSpec()))


def compiling() -> bool:
    """Whether JAX is tracing, as inside of `jax.jit` and `lax.scan`.

    Not so under `jax.vmap` or `jax.grad` alone, which have tracers too, but execute one by one.
    """
    return isinstance(lax.full((), 0), jax.core.Tracer)


@jax.custom_batching.custom_vmap
def anywhere(condition: chex.Array) -> chex.Array:
    """Whether a condition holds, or under `jax.vmap` holds for any member of the batch.

    With one condition for each, `jax.vmap` would compute both sides of a branch in every step, and
    have a copy for each of what is chosen on it.
    """
    return condition


@anywhere.def_vmap
def _anywhere_in_batch(
    size: int, batched: list[bool], conditions: chex.Array
) -> tuple[chex.Array, bool]:
    del size, batched
    return anywhere(jnp.any(conditions)), False


def on_no_mesh(tree: chex.ArrayTree) -> bool:
    """Whether everything is on one device, as far as JAX tells while it traces."""
    leaves = jax.tree.leaves(tree)
    meshes = [jax.sharding.get_abstract_mesh(), *map(_mesh, leaves)]
    return all(mesh.empty for mesh in meshes)


def devices(tree: chex.ArrayTree) -> int:
    """How many devices the compiler may divide an array among, as far as JAX tells.

    Inside of `jax.shard_map` what a device has is its own.
    """

    def size(mesh: Any) -> int:
        if mesh.empty:
            return 1
        axes = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
        return math.prod(number for number, kind in axes if kind != AxisType.Manual)

    return max(map(size, [jax.sharding.get_abstract_mesh(), *map(_mesh, jax.tree.leaves(tree))]))


def _mesh(leaf: chex.Array) -> Any:
    """The mesh of the sharding that is part of a type, empty but on a mesh of explicit axes."""
    return jax.typeof(leaf).sharding.mesh
