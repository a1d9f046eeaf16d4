"""Hessian-vector products against dense Hessians."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.experimental import io_callback
from jax.extend import core
from jax.flatten_util import ravel_pytree

from tests.curvature.problems import KEY, NETS, convnet, problem
from xsam_jax import curvature, xsam

_without_rule = core.Primitive("without_rule")
_without_rule.def_impl(jnp.sin)
_without_rule.def_abstract_eval(lambda x: x)

KERNELS: dict[str, Callable[[chex.Array], chex.Array]] = {
    "pure_callback": lambda x: jax.pure_callback(np.sin, jax.typeof(x), x),
    "io_callback": lambda x: io_callback(np.sin, jax.typeof(x), x),
    "ffi_call": lambda x: jax.ffi.ffi_call("nothing", jax.typeof(x))(x),
    "primitive": lambda x: _without_rule.bind(x),
    "in a loop": lambda x: lax.fori_loop(0, 2, lambda _, x: _without_rule.bind(x), x),
}


def _identity(w: Any) -> Any:
    return w


def _raise_type_error(w: chex.Array) -> chex.Array:
    raise TypeError("mine")


class TestHvp:
    @NETS
    def test_is_the_dense_hessian_times_the_vector(self, net: Any) -> None:
        loss, params, hessian = problem(net)
        flat, unravel = ravel_pytree(params)
        v = jax.random.normal(KEY, flat.shape)
        product = jax.jit(partial(curvature.hvp, jax.grad(loss)))(params, unravel(v))
        chex.assert_trees_all_equal_structs(product, params)
        np.testing.assert_allclose(ravel_pytree(product)[0], hessian @ v, rtol=0, atol=1e-13)

    @settings(max_examples=12, deadline=None)
    @given(
        shapes=st.lists(st.lists(st.integers(1, 3), max_size=3).map(tuple), min_size=1, max_size=4),
        dtype=st.sampled_from([jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16]),
        seed=st.integers(0, 1000),
    )
    def test_shapes_and_dtypes(self, shapes: list[Any], dtype: Any, seed: int) -> None:
        rng = np.random.default_rng(seed)
        wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
        w, c = ([jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes] for _ in range(2))
        v = [jnp.asarray(rng.normal(size=shape), dtype).astype(wide) for shape in shapes]

        def grad_fn(p: list[chex.Array]) -> list[chex.Array]:
            return [a * x for a, x in zip(c, p, strict=True)]

        product = curvature.hvp(grad_fn, w, v)
        assert all(x.dtype == wide for x in product)
        expected = [np.asarray(a, np.float64) * np.asarray(x) for a, x in zip(c, v, strict=True)]
        chex.assert_trees_all_close(
            [np.asarray(x, np.float64) for x in product],
            expected,
            rtol=2 * float(jnp.finfo(dtype).eps),
        )

    def test_is_linear_and_symmetric(self) -> None:
        loss, params, _ = problem(convnet)
        flat, unravel = ravel_pytree(params)
        u, v = jax.random.normal(KEY, (2, flat.size))

        @jax.jit
        def product(x: chex.Array) -> chex.Array:
            return ravel_pytree(curvature.hvp(jax.grad(loss), params, unravel(x)))[0]

        combined = 2 * product(u) - product(v)
        np.testing.assert_allclose(product(2 * u - v), combined, rtol=0, atol=1e-13)
        np.testing.assert_allclose(u @ product(v), product(u) @ v, rtol=1e-12)

    @pytest.mark.parametrize("rules_call_it", [False, True])
    def test_custom_vjp(self, rules_call_it: bool) -> None:
        @jax.custom_vjp
        def cubes(w: chex.Array) -> chex.Array:
            return jnp.sum(w**3)

        def forward(w: chex.Array) -> tuple[chex.Array, chex.Array]:
            return (cubes if rules_call_it else lambda x: jnp.sum(x**3))(w), w

        cubes.defvjp(forward, lambda w, cotangent: (3 * w**2 * cotangent,))
        w, v = jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0])
        if rules_call_it:
            with pytest.raises(TypeError, match=r"custom_vjp whose forward or backward rule calls"):
                curvature.hvp(jax.grad(cubes), w, v)
        else:
            np.testing.assert_allclose(curvature.hvp(jax.grad(cubes), w, v), 6 * w * v)

    def test_forward_derivative_of_a_custom_vjp(self) -> None:
        squares = jax.custom_vjp(lambda w: w**2)
        squares.defvjp(lambda w: (squares(w), w), lambda w, cotangent: (2 * w * cotangent,))
        message = (
            "grad_fn, or curvature_grad_fn where that is given, must be differentiable in forward"
        )
        with pytest.raises(TypeError, match=message):
            curvature.hvp(lambda w: jax.jacfwd(squares)(w) @ w, jnp.ones(2), jnp.ones(2))

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_kernels_without_a_forward_derivative(self, kernel: str) -> None:
        """Whose gradient is in order; the user reads what to do, and from JAX what it was."""
        run = KERNELS[kernel]
        function = jax.custom_vjp(lambda x: run(x))
        function.defvjp(lambda x: (run(x), x), lambda x, cotangent: (run(x) * cotangent,))
        grad_fn = jax.grad(lambda w: jnp.sum(function(w)))
        w = jnp.ones(3)
        assert jax.eval_shape(grad_fn, w).shape == w.shape
        tx = xsam()
        calls: list[Callable[[], Any]] = [
            lambda: curvature.hvp(grad_fn, w, w),
            lambda: curvature.top_eigenpairs(grad_fn, w, key=KEY),
            lambda: jax.eval_shape(lambda w: curvature.trace(grad_fn, w, key=KEY), w),
            lambda: jax.eval_shape(lambda w: tx.update(w, tx.init(w), w, grad_fn=grad_fn), w),
        ]
        for call in calls:
            with pytest.raises(TypeError, match=r"curvature_grad_fn.* forward .*oja") as error:
                call()
            assert error.value.__cause__ is not None

    def test_error_of_the_gradient_itself_is_left_as_it_is(self) -> None:
        first = KeyError("first")

        def broken(w: chex.Array) -> chex.Array:
            raise LookupError("mine") from first

        with pytest.raises(LookupError, match="mine") as error:
            curvature.hvp(broken, jnp.ones(2), jnp.ones(2))
        assert error.value.__cause__ is first

    def test_other_type_errors_pass(self) -> None:
        with pytest.raises(TypeError, match="mine"):
            curvature.hvp(_raise_type_error, jnp.ones(2), jnp.ones(2))

    @pytest.mark.parametrize(
        ("error", "match", "grad_fn", "params", "v"),
        [
            (TypeError, r"params must be .* got int\d+\[3\] at \['n'\]", _identity,
             {"n": jnp.arange(3), "w": jnp.ones(2)}, {"n": jnp.ones(3), "w": jnp.ones(2)}),
            (TypeError, "params must be .* got complex", _identity, 1j * jnp.ones(2), jnp.ones(2)),
            (ValueError, "v must have the tree structure", _identity, {"a": jnp.ones(2)},
             {"b": jnp.ones(2)}),
            (ValueError, "v must have the shapes", _identity, jnp.ones(2), jnp.ones(3)),
            (ValueError, "the result of grad_fn must", lambda w: [w], jnp.ones(2), jnp.ones(2)),
        ],
    )  # fmt: skip
    def test_wrong_arguments(
        self, error: Any, match: str, grad_fn: Any, params: Any, v: Any
    ) -> None:
        with pytest.raises(error, match=match):
            curvature.hvp(grad_fn, params, v)
