"""What each measurement says of its own derivative, against those of dense Hessians."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads

from tests.curvature.decayed import BOTH, SIZE, dense, gradient, inputs, loss
from tests.curvature.problems import KEY, convnet, problem
from xsam_jax import curvature, mean_grad_fn


class TestHvp:
    @BOTH
    def test_with_respect_to_all(self, derivative: Any) -> None:
        params, data, decay = inputs()
        v, unravel = ravel_pytree(params)
        v = jnp.cos(3 * v)

        def found(v: chex.Array, *of: Any) -> chex.Array:
            product = curvature.hvp(gradient(*of[1:]), of[0], unravel(v))
            return ravel_pytree(product)[0]

        expected = jax.jacrev(lambda v, *of: dense(*of) @ v, (0, 1, 2, 3))(v, *inputs())
        chex.assert_trees_all_close(
            jax.jit(derivative(found, (0, 1, 2, 3)))(v, params, data, decay), expected, atol=1e-12
        )

    @BOTH
    def test_of_convolutions(self, derivative: Any) -> None:
        net, params, _ = problem(convnet)
        v = jax.tree.map(jnp.ones_like, params)
        square = lambda product: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(product))

        def by_jvp(params: Any) -> chex.Array:
            return square(jax.jvp(jax.grad(net), (params,), (v,))[1])

        found = derivative(lambda params: square(curvature.hvp(jax.grad(net), params, v)))
        chex.assert_trees_all_close(
            jax.jit(found)(params), jax.jit(jax.grad(by_jvp))(params), rtol=1e-9, atol=1e-12
        )


class TestTrace:
    @BOTH
    def test_value_and_standard_error(self, derivative: Any) -> None:
        def estimate(*of: Any) -> curvature.Estimate:
            params, data, decay = of
            return curvature.trace(gradient(data, decay), params, num_probes=5, key=KEY)

        def expected(*of: Any) -> curvature.Estimate:
            keys = jax.random.split(KEY, 5)
            signs = jax.vmap(lambda key: jax.random.rademacher(key, (1, SIZE), jnp.float64))(keys)
            samples = jnp.einsum("pi,ij,pj->p", signs[:, 0], dense(*of), signs[:, 0])
            return curvature.Estimate(jnp.mean(samples), jnp.std(samples, ddof=1) / jnp.sqrt(5.0))

        chex.assert_trees_all_close(estimate(*inputs()), expected(*inputs()), rtol=1e-6)
        chex.assert_trees_all_close(
            jax.jit(derivative(estimate, (0, 1, 2)))(*inputs()),
            jax.jit(jax.jacrev(expected, (0, 1, 2)))(*inputs()),
            rtol=1e-6,
            atol=1e-9,
        )

    @BOTH
    @pytest.mark.parametrize("size", [0.0, 1.0])
    def test_of_a_diagonal_hessian(self, derivative: Any, size: float) -> None:
        diagonal = size * jnp.arange(1.0, 5.0)
        estimate = lambda d: curvature.trace(lambda w: d * w, jnp.ones(4), num_probes=4, key=KEY)
        value, error = jax.jit(derivative(estimate))(diagonal)
        np.testing.assert_allclose(value, np.ones(4))
        np.testing.assert_allclose(error, np.zeros(4), atol=1e-12)


class TestSpectralDensity:
    @BOTH
    def test_raises(self, derivative: Any) -> None:
        def density(*of: Any) -> chex.Array:
            params, data, decay = of
            grad_fn = gradient(data, decay)
            options = {"num_matvecs": 3, "num_probes": 2}
            return curvature.spectral_density(grad_fn, params, **options, key=KEY).density

        for argument in range(3):
            for taken in (derivative(density, argument), jax.jit(derivative(density, argument))):
                with pytest.raises(TypeError, match="spectral_density has no derivative"):
                    taken(*inputs())

        def held(*of: Any) -> chex.Array:
            return of[2] * jnp.max(density(*jax.lax.stop_gradient(of)))

        slope = jax.jit(derivative(held, 2))(*inputs())
        np.testing.assert_allclose(slope, jnp.max(density(*inputs())), rtol=1e-6)


class TestAngle:
    @pytest.mark.parametrize("layerwise", [False, True])
    def test_both_modes(self, layerwise: bool) -> None:
        params, data, _ = inputs()
        v = {"a": data[2, :5], "b": data[3, 5:]}
        angle = partial(curvature.angle, layerwise=layerwise)
        check_grads(angle, (params, v), order=1, modes=("fwd", "rev"), rtol=1e-4)

    @BOTH
    @pytest.mark.parametrize("layerwise", [False, True])
    def test_is_zero_where_there_is_none(self, derivative: Any, layerwise: bool) -> None:
        ones = {"a": jnp.ones(2), "b": jnp.ones(2)}
        others = {"zero": 0.0, "same": 1.0, "opposite": -2.0}
        scaled = {name: jax.tree.map(lambda x, s=s: s * x, ones) for name, s in others.items()}
        places = [(ones, tree) for tree in scaled.values()] + [(scaled["zero"], scaled["zero"])]
        slope = jax.jit(derivative(partial(curvature.angle, layerwise=layerwise), (0, 1)))
        for grads, v in places:
            found = slope(grads, v)
            chex.assert_trees_all_close(found, jax.tree.map(jnp.zeros_like, found), atol=1e-6)


@BOTH
def test_mean_grad_fn(derivative: Any) -> None:
    params, data, decay = inputs()

    def found(*of: Any) -> chex.Array:
        params, data, decay = of
        return mean_grad_fn(lambda w, x: loss(w, x, decay), data.reshape(2, 2, SIZE))(params)

    def expected(params: Any, data: chex.Array, decay: chex.Array) -> chex.Array:
        return jax.tree.map(lambda leaf: leaf / 2, gradient(data, 2 * decay)(params))

    chex.assert_trees_all_close(
        jax.jit(derivative(found, (0, 1, 2)))(params, data, decay),
        jax.jit(jax.jacrev(expected, (0, 1, 2)))(params, data, decay),
        atol=1e-12,
    )
