"""Checks that a state belongs to the transformation and the parameters that it is used with."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from xsam_jax import _trees

_WAY_OUT = (
    ": make it by init(params) of this transformation; a checkpoint is restored into the state of "
    "the method, the tracker and the parameters that it was saved with"
)


# The field with the state of another optimizer, whose dtypes are its own affair.
_FOREIGN = "base"


def check(state: Any, init: Callable[[chex.ArrayTree], Any], params: chex.ArrayTree) -> None:
    """Raises unless ``state`` has the type, the structure, the shapes and the dtypes of ``init``'s.

    Nothing is computed: the parameters' types tell what is expected, and JAX remembers it.

    Args:
      state: what ``update`` was given.
      init: parameters -> state, a NamedTuple.
      params: the parameters of this step.

    Raises:
      TypeError, ValueError: it has not. The error names the first field that differs.
    """
    try:
        expected = jax.eval_shape(init, params)
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError):
        return  # of a base optimizer that looks at numbers
    if type(state) is not type(expected):
        raise TypeError(
            f"state must be the {type(expected).__name__} of this transformation, got "
            f"{_described(state)}{_WAY_OUT}"
        )
    for field, found, target in zip(expected._fields, state, expected, strict=True):
        differs = _trees.difference(found, target)
        if differs is not None:
            place = f"state.{field}{jax.tree_util.keystr(differs.path)}"
            wanted, got = differs.sides()
            raise ValueError(f"{place} must be {wanted}, got {got}{_WAY_OUT}")
        leaves = jax.tree.leaves_with_path(found)
        for (path, leaf), like in zip(leaves, jax.tree.leaves(target), strict=True):
            own = field != _FOREIGN and hasattr(leaf, "dtype")  # a Python number has none
            if jnp.shape(leaf) != like.shape or (own and jnp.result_type(leaf) != like.dtype):
                place = f"state.{field}{jax.tree_util.keystr(path)}"
                raise ValueError(
                    f"{place} must be {like.dtype}{list(like.shape)}, got "
                    f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}{_WAY_OUT}"
                )


def _described(state: Any) -> str:
    kind = type(state).__name__
    return f"a {kind} of {[type(part).__name__ for part in state]}" if kind == "tuple" else kind
