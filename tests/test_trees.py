"""The first place where two trees differ, and what is said of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import xsam_jax
from xsam_jax import _trees


class Pair(NamedTuple):
    left: Any
    right: Any


DEEP: dict[str, Any] = {
    f"layer {i}": {"kernel": jnp.ones(1), "bias": jnp.ones(1)} for i in range(300)
}


def at(tree: Any, path: Any) -> Any:
    for key in path:
        index = getattr(key, "key", getattr(key, "idx", None))
        tree = getattr(tree, key.name) if hasattr(key, "name") else tree[index]
    return tree


def update_of(params: Any, updates: Any) -> None:
    tx = xsam_jax.sam()
    tx.update(updates, tx.init(params), params, grad_fn=lambda w: w)


def test_of_a_large_tree() -> None:
    for other in (
        {**DEEP, "layer 7": {"kernel": jnp.ones(1)}},
        {name: layer for name, layer in DEEP.items() if name != "layer 7"},
        {**DEEP, "layer 7": [1]},
    ):
        with pytest.raises(ValueError, match=r"^updates.{1,400}layer 7.{1,300}$"):
            update_of(DEEP, other)


def test_in_a_state() -> None:
    tx = xsam_jax.xsam()
    lacking = {**DEEP, "layer 7": {"kernel": jnp.ones(1)}}
    with pytest.raises(ValueError, match=r"^state.eigenvector.{1,100}layer 7.{1,100}'bias'"):
        tx.update(DEEP, tx.init(lacking), DEEP, grad_fn=lambda w: w)


def test_of_static_data() -> None:
    value = jnp.ones(2)
    found = _trees.difference([nnx.Param(value, a=1)], [nnx.Param(value, a=2)])
    assert found is not None
    assert jax.tree_util.keystr(found.path) == "[0]"
    assert len(set(found.sides())) == 2


@settings(deadline=None, max_examples=60, database=None)
@given(data=st.data())
def test_is_found_where_the_structures_differ(data: Any) -> None:
    trees = st.recursive(
        st.sampled_from([0.0, None]),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from("ab"), inner),
            st.tuples(inner, inner),
            st.builds(Pair, inner, inner),
        ),
        max_leaves=8,
    )
    first, second = data.draw(trees), data.draw(trees)
    found = _trees.difference(first, second)
    structures: list[Any] = [jax.tree.structure(tree) for tree in (first, second)]
    assert (found is None) == (structures[0] == structures[1])
    if found is not None:
        assert len(set(found.sides())) == 2
        for tree, node in ((first, found.found), (second, found.expected)):
            assert at(tree, found.path) is node
