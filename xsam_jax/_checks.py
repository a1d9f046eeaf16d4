"""Checks of arguments, with errors that name the argument, its value and what is allowed."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from xsam_jax import _placement, _trees

AxisName: TypeAlias = str | tuple[str, ...] | None


def number(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    tolerance: float = 0.0,
    ends: str = "[]",
) -> None:
    """Raises unless ``value`` is a finite real scalar between ``low`` and ``high``.

    ``ends`` are those of the interval: ``"()"`` leaves both out. A traced value
    (`optax.inject_hyperparams`, `jax.vmap` over a hyperparameter) has no number to check yet.
    """
    if high == math.inf:
        allowed = f"a number {'>=' if ends[0] == '[' else '>'} {low:g}"
    else:
        allowed = f"a number in {ends[0]}{low:g}, {high:g}{ends[1]}"
    if isinstance(value, bool) or not (
        isinstance(value, (int, float, np.ndarray, np.generic, jax.Array))
        and np.ndim(value) == 0
        and _is_real_number(value)
    ):
        raise TypeError(f"{name} must be {allowed}, got {value!r}")
    if isinstance(value, jax.core.Tracer):
        return
    try:
        size = float(value)
    except OverflowError:  # an integer that no float can be
        size = math.inf
    above = size > low if ends[0] == "(" else size >= low - tolerance
    below = size < high if ends[1] == ")" else size <= high + tolerance
    if not (above and below and math.isfinite(size)):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def _is_real_number(value: Any) -> bool:
    if isinstance(value, (int, float)):
        return True  # whatever its size
    dtype = value.dtype
    return bool(jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating))


def function(name: str, value: Any, allowed: str) -> None:
    """Raises unless ``value`` can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function {allowed}, got {_trees.described(value)}")


def axis_name(value: Any) -> None:
    """Raises unless ``value`` is the name of an axis, a tuple of such names, or None."""
    names = value if isinstance(value, tuple) else (value,)
    if value is not None and not (names and all(isinstance(name, str) for name in names)):
        raise TypeError(f"axis_name must be a string, a tuple of strings or None, got {value!r}")


def key(name: str, value: Any) -> None:
    """Raises unless ``value`` is one random key, typed or raw."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    raw = dtype == jnp.uint32 and shape is not None and len(shape) == 1
    if not (shape == () if typed else raw):
        raise TypeError(f"{name} must be a random key such as jax.random.key(0), got {value!r}")


def integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raises unless ``value`` is an integer >= ``low``, and <= ``high`` where that is given."""
    allowed = f"an integer >= {low}" if high is None else f"an integer in [{low}, {high}]"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be {allowed}, got {value!r}")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def boolean(name: str, value: Any) -> None:
    """Raises unless ``value`` is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        static = " (under jax.jit a static argument)" if isinstance(value, jax.Array) else ""
        raise TypeError(f"{name} must be True or False{static}, got {value!r}")


def instance(name: str, value: Any, cls: type, allowed: str) -> None:
    """Raises unless ``value`` is a ``cls``."""
    if not isinstance(value, cls):
        raise TypeError(f"{name} must be {allowed}, got {value!r}")


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raises unless ``value`` is one of ``allowed``."""
    if not (isinstance(value, str) and value in allowed):
        options = " or ".join(repr(option) for option in allowed)
        raise ValueError(f"{name} must be {options}, got {value!r}")


def real(name: str, tree: Any) -> None:
    """Raises unless all leaves of ``tree`` are real floating-point arrays."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
            raise TypeError(
                f"{name} must be real floating-point arrays, got {_trees.described(leaf)} at "
                f"{_trees.place(path)}: leave such leaves out (optax.masked, equinox.partition, "
                "nnx.state(model, nnx.Param))"
            )


def same_tree(name: str, tree: Any, like: Any, model: str = "params") -> None:
    """Raises unless ``tree`` has the structure and shapes of ``like``, whose name is ``model``."""
    structure: Any = jax.tree.structure(tree)
    if structure != jax.tree.structure(like):
        raise ValueError(_other_tree(name, tree, like, model))
    for (path, leaf), (_, target) in zip(
        jax.tree.leaves_with_path(tree), jax.tree.leaves_with_path(like), strict=True
    ):
        if jnp.shape(leaf) != jnp.shape(target):
            raise ValueError(
                f"{name} must have the shapes of {model}: at {_trees.place(path)} "
                f"{jnp.shape(target)} is expected, got {jnp.shape(leaf)}"
            )


def _other_tree(name: str, tree: Any, like: Any, model: str) -> str:
    """Where a tree differs from ``like``, and what to do where it is a well-known mistake."""
    differs = _trees.difference(tree, like)
    assert differs is not None
    expected, found = differs.sides()
    way_out = ""
    if type(tree) is tuple and len(tree) == 2 and type(like) is not tuple:
        first, second, whole = map(_shapes, (*tree, like))
        if second == whole:
            way_out = ". It is (value, gradient), as of jax.value_and_grad: take its [1]"
        elif first == whole:
            way_out = ". It is (gradient, auxiliary value), as with has_aux=True: take its [0]"
    elif _trees.is_variable(differs.found) or _trees.is_variable(differs.expected):
        which = name if _trees.is_variable(differs.found) else model
        way_out = f". nnx.as_pure takes Flax's variables out of {which}"
    return (
        f"{name} must have the tree structure of {model}: at {_trees.place(differs.path)} "
        f"{expected} is expected, got {found}{way_out}"
    )


def _shapes(tree: Any) -> list[Any]:
    return [getattr(leaf, "shape", ()) for leaf in jax.tree.leaves(tree)]


def same_on_devices(name: str, tree: Any, axis_name: AxisName) -> None:
    """Raises if `jax.shard_map` knows of a leaf of ``tree`` that may differ between the devices."""
    tracked = _placement.tracked_axes(axis_name)
    for path, leaf in jax.tree.leaves_with_path(tree):
        if tracked & _placement.varying_axes(leaf):
            raise ValueError(
                f"{name} must be the same on all devices of axis_name={axis_name!r}, but "
                f"{jax.typeof(leaf)} at {_trees.place(path)} varies over them. If they are divided "
                "over the devices: put jax.shard_map around the gradient alone and call the method "
                "outside of it, under jax.jit and without axis_name. If each device has a model "
                "of its own: leave axis_name out. If they are the same, and cast: cast them inside "
                "grad_fn"
            )


def own_gradient(
    name: str, tree: Any, axis_name: AxisName, grad_fn: Callable[[Any], Any], params: Any
) -> None:
    """Raises if `jax.shard_map` knows of a leaf of ``tree`` that was reduced over its devices.

    With ``check_vma=True``, its default, JAX sums the gradient at parameters that are the same on
    all devices, and the mean of that sum would still be the sum. ``tree`` should be
    ``grad_fn(params)``: a leaf that nothing of a device's own went into, such as the zero of a
    frozen one, is the same on all devices and right.
    """
    tracked = _placement.tracked_axes(axis_name)
    leaves = jax.tree.leaves_with_path(tree)
    same = [tracked - _placement.varying_axes(leaf) for _, leaf in leaves]
    if not any(same):
        return
    sources = _placement.sources(grad_fn, params)
    for (path, _), axes, source in zip(leaves, same, sources, strict=True):
        if axes & source:
            over = sorted(axes & source)
            raise ValueError(
                f"{name} must be the gradient of each device's own loss with "
                f"axis_name={axis_name!r}, but at {_trees.place(path)} it is reduced over "
                f"{', '.join(map(repr, over))} already: with check_vma=True jax.shard_map sums it "
                "wherever the parameters are not cast. Give shard_map check_vma=False or "
                f"differentiate at jax.lax.pcast(params, {axis_name!r}, to='varying'), all leaves. "
                "If it is averaged over the devices already, leave axis_name out or cast it too"
            )
