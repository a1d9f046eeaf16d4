"""Methods that see only a part of the parameters."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import xsam_jax
from tests import quadratic

MASK = {"a": True, "b": False}


def test_perturbs_and_measures_only_its_own_leaves() -> None:
    matrix, _ = quadratic.hessian([5.0, 3.0, 1.0, 0.5])
    params, gradient = quadratic.start(4), quadratic.grad_fn(matrix)
    tx = optax.masked(xsam_jax.sam(rho=0.3), MASK)
    masked_grad_fn = xsam_jax.masked_grad_fn(gradient, params)
    updates, _ = tx.update(gradient(params), tx.init(params), params, grad_fn=masked_grad_fn)
    g = gradient(params)
    e = 0.3 * g["a"] / jnp.linalg.norm(g["a"])
    g_adv = gradient({"a": params["a"] + e, "b": params["b"]})
    chex.assert_trees_all_close(updates, {"a": g_adv["a"], "b": g["b"]}, rtol=1e-12)


def test_partition_gives_each_part_its_own_ball() -> None:
    matrix, _ = quadratic.hessian([5.0, 3.0, 1.0, 0.5])
    params, gradient = quadratic.start(4), quadratic.grad_fn(matrix)
    parts = {"first": xsam_jax.sam(rho=0.3), "second": xsam_jax.sam(rho=0.0)}
    tx = optax.partition(parts, {"a": "first", "b": "second"})
    updates, _ = tx.update(
        gradient(params),
        tx.init(params),
        params,
        grad_fn=xsam_jax.masked_grad_fn(gradient, params),
    )
    g = gradient(params)
    e = 0.3 * g["a"] / jnp.linalg.norm(g["a"])
    g_adv = gradient({"a": params["a"] + e, "b": params["b"]})
    chex.assert_trees_all_close(updates, {"a": g_adv["a"], "b": g["b"]}, rtol=1e-12)


def test_eigenvector_of_the_block() -> None:
    matrix, _ = quadratic.hessian([5.0, 3.0, 1.0, 0.5])
    params, gradient = quadratic.start(4), quadratic.grad_fn(matrix)
    tx = optax.masked(xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(iters=100)), MASK)
    _, state = tx.update(
        gradient(params),
        tx.init(params),
        params,
        grad_fn=xsam_jax.masked_grad_fn(gradient, params),
    )
    block_values = jnp.linalg.eigvalsh(matrix[:2, :2])
    np.testing.assert_allclose(state.inner_state.eigenvalue, block_values[-1], rtol=1e-6)


@pytest.mark.parametrize("name", ["grad_fn", "curvature_grad_fn"])
@pytest.mark.parametrize("raises", [True, False])
def test_error_without_it_names_it(raises: bool, name: str) -> None:
    params = quadratic.start(4)
    gradient = quadratic.grad_fn(jnp.eye(4)) if raises else lambda w: params
    masked = xsam_jax.masked_grad_fn(quadratic.grad_fn(jnp.eye(4)), params)
    tx = optax.masked(xsam_jax.xsam(), MASK)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        tx.update(params, tx.init(params), params, **{"grad_fn": masked, name: gradient})
    assert any(f", {name}=xsam_jax.masked_grad_fn({name}" in n for n in caught.value.__notes__)


def test_whole_trees_pass_through() -> None:
    params, gradient = quadratic.start(4), quadratic.grad_fn(2 * jnp.eye(4))
    other = jax.tree.map(jnp.ones_like, params)
    chex.assert_trees_all_equal(xsam_jax.masked_grad_fn(gradient, params)(other), gradient(other))
