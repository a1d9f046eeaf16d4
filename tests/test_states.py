"""A state of another method, tracker or tree is refused, and one of this one never."""

import itertools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import xsam_jax

METHODS: dict[str, Callable[[], Any]] = {
    "sam": xsam_jax.sam,
    "friendly_sam": xsam_jax.friendly_sam,
    "wsam_decoupled": lambda: xsam_jax.wsam_decoupled(optax.sgd(0.1, momentum=0.9), 0.1),
    **{
        f"{factory.__name__} {name}": lambda factory=factory, tracker=tracker: factory(
            eigenvector=tracker
        )
        for factory in (xsam_jax.xsam, xsam_jax.eigen_sam)
        for name, tracker in {
            "power_iteration": xsam_jax.power_iteration(),
            "oja": xsam_jax.oja(),
            "two": xsam_jax.subspace(2),
            "four": xsam_jax.subspace(4),
        }.items()
    },
}
PARAMS = {"a": jnp.ones((3, 1), jnp.float32), "b": jnp.ones(2, jnp.float32)}
WAY_OUT = r"init\(params\)"


def _update(method: str, state: Any, params: chex.ArrayTree = PARAMS) -> Any:
    tx = METHODS[method]()
    return tx.update(params, state, params, grad_fn=lambda w: jax.tree.map(lambda x: 2 * x, w))[1]


def test_the_state_of_every_other_method_is_refused() -> None:
    states = {name: make().init(PARAMS) for name, make in METHODS.items()}
    for method, other in itertools.permutations(METHODS, 2):
        with pytest.raises((TypeError, ValueError), match=f"^state.* must .*got .*{WAY_OUT}"):
            _update(method, states[other])
    with pytest.raises(ValueError, match=f"^state.memory must .*{WAY_OUT}"):
        jax.eval_shape(lambda s: _update("xsam oja", s), states["xsam power_iteration"])


OTHERS = {
    "a size of one": {"a": jnp.ones((1, 1), jnp.float32), "b": PARAMS["b"]},
    "a longer leaf": {"a": PARAMS["a"], "b": jnp.ones(5, jnp.float32)},
    "another name": {"a": PARAMS["a"], "c": PARAMS["b"]},
    "a list": list(PARAMS.values()),
}


@pytest.mark.parametrize("method", [name for name in METHODS if name != "sam"])
@pytest.mark.parametrize("other", OTHERS)
def test_the_state_of_other_parameters_is_refused(method: str, other: str) -> None:
    state = METHODS[method]().init(OTHERS[other])
    with pytest.raises(ValueError, match=rf"^state\.\w+.* must .*got .*{WAY_OUT}"):
        _update(method, state)


@pytest.mark.parametrize("method", METHODS)
def test_a_state_that_is_restored_as_another_container_is_refused(method: str) -> None:
    state = METHODS[method]().init(PARAMS)
    for broken in (state._asdict(), list(state), tuple(state), (state, optax.EmptyState()), None):
        with pytest.raises(TypeError, match=f"^state must be the .*State.*got .*{WAY_OUT}"):
            _update(method, broken)


@pytest.mark.parametrize(
    "method", [name for name in METHODS if name not in ("sam", "wsam_decoupled")]
)
def test_a_state_of_another_dtype_is_refused(method: str) -> None:
    """The statistics' dtype, which is float32 also for parameters of float16."""
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), PARAMS)
    state = METHODS[method]().init(half)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, METHODS[method]().init(PARAMS))
    double = jax.tree.map(lambda x: x.astype(jnp.float64) if x.ndim else x, state)
    with pytest.raises(ValueError, match=rf"^state\.\w+.* must be float32.*float64.*{WAY_OUT}"):
        _update(method, double)


def test_the_base_optimizer_s_dtypes_are_its_own() -> None:
    state = METHODS["wsam_decoupled"]().init(PARAMS)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.base)
    with jax.numpy_dtype_promotion("standard"):
        assert _update("wsam_decoupled", state._replace(base=half)).base_count == 1


@pytest.mark.parametrize(
    "method", ["sam", "friendly_sam", "wsam_decoupled", "xsam power_iteration", "eigen_sam two"]
)
def test_its_own_state_is_taken(method: str) -> None:
    """As NumPy arrays, with Python numbers, under transformations, and of masked parameters."""
    tx = METHODS[method]()
    state = tx.init(PARAMS)
    expected = _update(method, state)
    chex.assert_trees_all_equal(_update(method, jax.tree.map(np.asarray, state)), expected)
    assert _update(method, state._replace(count=3)).count == 4
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (state, PARAMS))
    batched = jax.vmap(lambda state, params: _update(method, state, params))(*twice)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.tree.map(lambda x: x[0], batched), expected)
    scanned, _ = jax.lax.scan(lambda s, _: (_update(method, s), None), state, length=2)
    chex.assert_trees_all_equal_shapes_and_dtypes(scanned, expected)
    masked = optax.masked(tx, {"a": True, "b": False})
    gradient = xsam_jax.masked_grad_fn(lambda w: w, PARAMS)
    _, after = masked.update(PARAMS, masked.init(PARAMS), PARAMS, grad_fn=gradient)
    assert after.inner_state.count == 1


def test_a_base_optimizer_that_looks_at_numbers_is_left_alone() -> None:
    def init(params: chex.ArrayTree) -> chex.Array:
        return jnp.asarray(float(params["b"].sum()))

    base = optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))
    tx = xsam_jax.wsam_decoupled(base, 0.1)
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS, grad_fn=lambda w: w)
    assert state.base_count == 1
