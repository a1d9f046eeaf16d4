"""Under JAX's transformations, and for every dtype and tree."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from tests.every_method.methods import METHODS, every_method
from tests.every_method.problem import (
    STEPS,
    assert_close,
    at,
    init,
    step,
    undisturbed,
)


@every_method
def test_vmap_over_seeds_and_rho(name: str) -> None:
    """A refresh stays a branch, whether each has a step count of its own or all have one."""

    def run(scale: chex.Numeric, rho: chex.Numeric) -> chex.ArrayTree:
        tx = METHODS[name].optimizer(rho=rho)
        params = jax.tree.map(lambda leaf: scale * leaf, init())
        carry = (params, tx.init(params))

        def body(carry: Any, k: chex.Array) -> tuple[Any, Any]:
            carry = step(tx, *carry, k)
            return carry, carry[0]

        return jax.lax.scan(body, carry, jnp.arange(STEPS))[1]

    scales, radii = jnp.array([1.0, 0.5]), jnp.array([0.3, 0.1])
    both, one = jax.vmap(run), jax.jit(run)
    batched = jax.jit(both)(scales, radii)
    for i in range(2):
        assert_close(at(i, batched), one(scales[i], radii[i]))
    assert_close(at(0, batched), undisturbed(name)[0])  # whose rho is not traced

    tx = METHODS[name].optimizer()
    params = jax.tree.map(lambda leaf: leaf[:, 0], batched)
    each, states = jax.vmap(functools.partial(step, tx), (0, 0, None)), jax.vmap(tx.init)(params)
    for jaxpr in (jax.make_jaxpr(both)(scales, radii), jax.make_jaxpr(each)(params, states, 0)):
        # jnp.diagonal has a branch for each platform.
        branches = str(jaxpr).count("cond[") - str(jaxpr).count("branches_platforms=((")
        # The second gradient is one.
        assert branches == 1 + (METHODS[name].products > 0)


@every_method
def test_leaks_nothing(name: str) -> None:
    tx, params = METHODS[name].optimizer(), init()
    with jax.checking_leaks():
        jax.jit(lambda params, k: step(tx, params, tx.init(params), k)).trace(params, 0)


@pytest.mark.parametrize(
    ("kernel", "bias"),
    [
        ("float64", "float64"),
        ("float32", "float32"),
        ("bfloat16", "bfloat16"),
        ("bfloat16", "float32"),
        ("float32", "bfloat16"),
    ],
)
@every_method
def test_dtypes(name: str, kernel: str, bias: str) -> None:
    """Parameters and state keep their dtypes, and no type of theirs is weak."""
    tx = METHODS[name].optimizer()
    params = {"kernel": init(kernel)["kernel"], "bias": init(bias)["bias"]}
    before = (params, tx.init(params))
    after = jax.eval_shape(lambda params, state: step(tx, params, state, 0), *before)
    types = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)
    assert types(after) == types(before)


@every_method
def test_map_params(name: str) -> None:
    """Optax finds the copies of the parameters in the state."""
    tx = METHODS[name].optimizer()
    marked = optax.tree.map_params(tx, lambda leaf: "param", tx.init(init()))
    copies = METHODS[name].copies * len(jax.tree.leaves(init()))
    assert sum(leaf == "param" for leaf in jax.tree.leaves(marked)) == copies


@every_method
def test_empty_tree(name: str) -> None:
    tx = METHODS[name].optimizer()
    updates, state = jax.jit(lambda: tx.update({}, tx.init({}), {}, grad_fn=lambda w: w))()
    assert updates == {}
    chex.assert_tree_all_finite(state)


@every_method
def test_scalar_tree(name: str) -> None:
    """A bare scalar is trained like one in a dictionary."""
    tx, w = METHODS[name].optimizer(), jnp.asarray(2.0)

    @jax.jit
    def update(params: chex.ArrayTree) -> chex.ArrayTree:
        square = jax.grad(lambda tree: sum(leaf**2 for leaf in jax.tree.leaves(tree)))
        return tx.update(square(params), tx.init(params), params, grad_fn=square)[0]

    assert update(w) == update({"w": w})["w"] != 0
