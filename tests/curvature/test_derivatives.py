"""What each measurement says of its own derivative, against those of dense Hessians."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads

from tests.curvature.problems import KEY, convnet, problem
from xsam_jax import curvature, mean_grad_fn

SIZE = 12
DATA = np.random.default_rng(0).normal(size=(4, SIZE))
POINT = {"a": 0.3 * DATA[0, :5], "b": 0.2 * DATA[1, 5:]}
Inputs = tuple[dict[str, chex.Array], chex.Array, chex.Array]
BOTH = pytest.mark.parametrize("derivative", [jax.jacfwd, jax.jacrev])


def inputs(dtype: Any = jnp.float64) -> Inputs:
    """Make parameters, four examples and a decay, which is an eigenvalue of multiplicity eight."""
    params = {name: jnp.asarray(leaf, dtype) for name, leaf in POINT.items()}
    return params, jnp.asarray(DATA, dtype), jnp.asarray(0.1, dtype)


def loss(params: Any, data: chex.Array, decay: chex.Array) -> chex.Array:
    flat = ravel_pytree(params)[0]
    return jnp.sum(jnp.sin(data @ flat + 1)) + decay * jnp.sum(flat**2) / 2


def gradient(data: chex.Array, decay: chex.Array) -> Callable[[Any], Any]:
    return jax.grad(partial(loss, data=data, decay=decay))


def dense(params: Any, data: chex.Array, decay: chex.Array) -> chex.Array:
    flat, unravel = ravel_pytree(params)
    return jax.hessian(lambda w: loss(unravel(w), data, decay))(flat)


def pairs(which: str, k: int, *of: Any) -> curvature.Eigenpairs:
    params, data, decay = of
    return curvature.top_eigenpairs(gradient(data, decay), params, k, which=which, key=KEY)


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
