"""Eigen-SAM's own tracker."""

from typing import Any

import chex
import jax

import xsam_jax
from tests import quadratic


def test_its_power_iteration_goes_on_where_it_was() -> None:
    """Five products in step 1 and five in step 101 are ten in one."""
    matrix, _ = quadratic.hessian([4.0, 3.5, 3.0, 2.0, 1.0])
    params, gradient = quadratic.start(5), quadratic.grad_fn(matrix)

    def vector(tx: Any, steps: int) -> chex.ArrayTree:
        def step(state: Any, _: None) -> tuple[Any, None]:
            return tx.update(gradient(params), state, params, grad_fn=gradient)[1], None

        scan = jax.jit(lambda state: jax.lax.scan(step, state, length=steps)[0])
        return scan(tx.init(params)).eigenvector

    ten = xsam_jax.eigen_sam(eigenvector=xsam_jax.power_iteration(iters=10))
    chex.assert_trees_all_close(vector(xsam_jax.eigen_sam(), 101), vector(ten, 1), rtol=1e-9)
