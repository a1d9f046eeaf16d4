"""Derivatives of eigenvalues against those of dense Hessians."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from tests.curvature.decayed import BOTH, Inputs, dense, gradient, inputs, loss, pairs
from tests.curvature.problems import KEY
from xsam_jax import curvature, mean_grad_fn


class TestTopEigenpairs:
    @BOTH
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    @pytest.mark.parametrize(("which", "k"), [("LA", 1), ("LM", 3)])
    def test_of_simple_eigenvalues(self, derivative: Any, dtype: Any, which: str, k: int) -> None:
        """Though another one, the decay, is eightfold."""

        def expected(*of: Any) -> chex.Array:
            values = jnp.linalg.eigvalsh(dense(*of))
            size = jnp.abs(values) if which == "LM" else values
            return values[jnp.argsort(-size)[:k]]

        found = jax.jit(derivative(lambda *of: pairs(which, k, *of).values, (0, 1, 2)))
        chex.assert_trees_all_close(
            found(*inputs(dtype)),
            jax.tree.map(
                lambda leaf: leaf.astype(dtype), jax.jit(jax.jacrev(expected, (0, 1, 2)))(*inputs())
            ),
            rtol=1e-3 if dtype == jnp.float32 else 1e-6,
            atol=1e-3 if dtype == jnp.float32 else 1e-6,
        )

    @BOTH
    def test_of_the_mean_of_a_multiple_eigenvalue(self, derivative: Any) -> None:
        decay = jnp.array([3.0, 3.0, 1.0, 0.5])

        def mean(tilt: chex.Array) -> chex.Array:
            matrix = jnp.diag(decay) + jnp.diag(tilt)
            found = curvature.top_eigenpairs(lambda w: matrix @ w, jnp.ones(4), k=2, key=KEY)
            return jnp.mean(found.values)

        found = jax.jit(derivative(mean))(jnp.zeros(4))
        np.testing.assert_allclose(found, [0.5, 0.5, 0, 0], atol=1e-12)

    def test_outside_of_jit_and_twice(self) -> None:
        params, data, decay = inputs()
        value = lambda decay: pairs("LA", 1, params, data, decay).values[0]
        np.testing.assert_allclose(jax.grad(value)(decay), 1, rtol=1e-6)
        np.testing.assert_allclose(jax.jvp(value, (decay,), (decay,))[1], decay, rtol=1e-6)
        each = jax.vmap(jax.grad(value))(jnp.array([0.1, 0.2]))
        np.testing.assert_allclose(each, [1, 1], rtol=1e-6)

    @pytest.mark.parametrize("compiled", [False, True])
    def test_a_second_derivative_raises(self, compiled: bool) -> None:
        """It would need the vector's."""
        params, data, decay = inputs()
        value = lambda params: pairs("LA", 1, params, data, decay).values[0]
        for second in (
            lambda w: jax.jvp(jax.grad(value), (w,), (w,)),
            jax.grad(lambda w: jnp.sum(ravel_pytree(jax.grad(value)(w))[0])),
            lambda w: jax.jvp(lambda w: jax.jvp(value, (w,), (w,))[1], (w,), (w,)),
            lambda w: curvature.hvp(jax.grad(value), w, w),
        ):
            with pytest.raises(TypeError, match=r"first derivative only|differentiable in forward"):
                (jax.jit(second) if compiled else second)(params)

    def test_of_a_data_set_batch_by_batch(self) -> None:
        params, data, decay = inputs()

        def value(data: chex.Array) -> chex.Array:
            grad_fn = mean_grad_fn(lambda w, x: loss(w, x[None], decay), data)
            return 4 * curvature.top_eigenpairs(grad_fn, params, key=KEY).values[0]

        whole = lambda data: jnp.linalg.eigvalsh(dense(params, data, 4 * decay))[-1]
        np.testing.assert_allclose(
            jax.jit(jax.grad(value))(data), jax.grad(whole)(data), rtol=1e-6, atol=1e-9
        )

    @BOTH
    def test_the_rest_is_constant(self, derivative: Any) -> None:
        start = jax.tree.map(jnp.ones_like, inputs()[0])

        def rest(of: Inputs, start: Any) -> Any:
            params, data, decay = of
            grad_fn = gradient(data, decay)
            # So few products that the pair has not converged.
            found = curvature.top_eigenpairs(grad_fn, params, num_matvecs=2, start=start, key=KEY)
            return found.vectors, found.residuals

        slopes = jax.jit(derivative(rest, (0, 1)))(inputs(), start)
        chex.assert_trees_all_equal(slopes, jax.tree.map(jnp.zeros_like, slopes))
        value = lambda start: (
            curvature.top_eigenpairs(
                gradient(*inputs()[1:]), inputs()[0], num_matvecs=2, start=start, key=KEY
            ).values
        )
        chex.assert_trees_all_equal(
            jax.jit(derivative(value))(start),
            jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape)), start),
        )
