"""Leading eigenpairs in use: bfloat16, traced data, batches, Flax, meshes, convolutions."""

import functools
import re
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.curvature.problems import (
    KEY,
    SPECTRA,
    convnet,
    flat_rows,
    mlp,
    problem,
    with_spectrum,
)
from tests.meshes import mesh_of
from xsam_jax import curvature, mean_grad_fn


class TestTopEigenpairs:
    def test_bfloat16_parameters(self) -> None:
        loss, params, hessian = problem(mlp)
        exact = float(np.linalg.eigvalsh(hessian)[-1])
        half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)

        def half_loss(p: Any) -> chex.Array:
            return loss(jax.tree.map(lambda x: x.astype(jnp.float64), p))

        pairs = curvature.top_eigenpairs(jax.grad(half_loss), half, key=KEY)
        assert pairs.values.dtype == jnp.float32
        assert abs(float(pairs.values[0]) - exact) <= 0.02 * exact
        assert float(pairs.residuals[0]) <= 0.05 * exact

    def test_data_may_be_traced(self) -> None:
        matrix = with_spectrum(SPECTRA["separated"])

        @jax.jit
        def largest(matrix: chex.Array, num_steps: chex.Array, key: chex.PRNGKey) -> chex.Array:
            def grad_fn(w: chex.Array) -> chex.Array:
                return matrix @ w * num_steps.astype(w.dtype)

            return curvature.top_eigenpairs(grad_fn, jnp.ones(50), key=key).values[0]

        # Integers and keys too, and under vmap.
        keys = jax.random.split(KEY, 3)
        found = jax.vmap(largest, in_axes=(None, 0, 0))(matrix, jnp.arange(1, 4), keys)
        np.testing.assert_allclose(found, [9, 18, 27], rtol=1e-6)

    def test_full_data_set_batch_by_batch(self) -> None:
        x, y = jax.random.normal(KEY, (24, 4)), jnp.linspace(-1, 1, 24)

        def loss(w: chex.Array, batch: tuple[chex.Array, chex.Array]) -> chex.Array:
            inputs, targets = batch
            return jnp.mean((jnp.tanh(inputs @ w) - targets) ** 2)

        w = jnp.ones(4)
        batches = (x.reshape(6, 4, 4), y.reshape(6, 4))
        pairs = curvature.top_eigenpairs(mean_grad_fn(loss, batches), w, k=4, key=KEY)
        expected = np.linalg.eigvalsh(jax.hessian(loss)(w, (x, y)))[::-1]
        np.testing.assert_allclose(pairs.values, expected, rtol=1e-9)

    def test_nnx_state(self) -> None:
        model = nnx.Linear(4, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64, dtype=jnp.float64)
        graph, params = nnx.split(model, nnx.Param)
        x = jax.random.normal(KEY, (20, 4))

        def loss(p: Any) -> chex.Array:
            return jnp.mean(jnp.sum(nnx.merge(graph, p)(x) ** 2, axis=1)) / 2

        pairs = curvature.top_eigenpairs(jax.grad(loss), params, k=2, key=KEY)
        # Least squares: the covariance of (x, 1), once for each of the two outputs.
        inputs = np.concatenate([x, np.ones((20, 1))], axis=1)
        expected = np.linalg.eigvalsh(inputs.T @ inputs / 20)[-1]
        np.testing.assert_allclose(pairs.values, [expected, expected], rtol=1e-10)
        chex.assert_trees_all_equal_structs(pairs.vectors, params)
        assert pairs.vectors["kernel"].shape == (2, 4, 2)

    @pytest.mark.parametrize("axis_type", list(jax.sharding.AxisType)[:2])
    def test_sharded_parameters(self, axis_type: Any) -> None:
        find, params, expected = _sharding_problem()
        mesh = mesh_of(8, names=("x",), kind=axis_type)
        specs = {"a": jax.P("x", None), "b": jax.P(None, "x"), "c": jax.P()}
        sharded = {
            name: jax.device_put(leaf, jax.NamedSharding(mesh, specs[name]))
            for name, leaf in params.items()
        }
        pairs = find(sharded)
        np.testing.assert_allclose(pairs.values, expected.values, rtol=1e-12)
        assert pairs.vectors["a"].sharding.is_equivalent_to(
            jax.NamedSharding(mesh, jax.P(None, "x", None)), 3
        )
        vectors = jax.tree.map(np.asarray, pairs.vectors)
        cosines = flat_rows(vectors) @ flat_rows(expected.vectors).T
        np.testing.assert_allclose(np.abs(cosines), np.eye(2), atol=1e-9)

    def test_convolutions_in_the_loops_have_the_fast_layout(self) -> None:
        loss, params = convnet()
        program = jax.jit(
            partial(curvature.top_eigenpairs, jax.grad(loss), num_matvecs=3, key=KEY)
        ).lower(params)
        layouts = re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", program.as_text())
        assert layouts
        if jax.default_backend() == "cpu":
            assert set(layouts) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}

    def test_only_the_krylov_basis_multiplies_in_full_precision(self) -> None:
        x = jnp.ones((4, 6))
        grad_fn = jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w)))
        find = partial(curvature.top_eigenpairs, grad_fn, num_matvecs=3, key=KEY)
        program = jax.jit(find).lower(jnp.ones((6, 2))).as_text()
        dots = [line for line in program.splitlines() if "dot_general" in line]
        for line in dots:
            of_the_loss = "tensor<4x" in line
            assert ("[HIGHEST, HIGHEST]" in line) != of_the_loss
        assert any("tensor<4x" in line for line in dots)


@functools.cache
def _sharding_problem() -> tuple[Any, dict[str, chex.Array], curvature.Eigenpairs]:
    """Make a search for two eigenpairs, its parameters, and its result without sharding."""
    keys = jax.random.split(KEY, 3)
    params = {
        "a": jax.random.normal(keys[0], (16, 3)),
        "b": jax.random.normal(keys[1], (2, 8)),
        "c": jax.random.normal(keys[2], ()),
    }

    def loss(p: dict[str, chex.Array]) -> chex.Array:
        # Elementwise: a mesh of explicit axes wants every matmul's sharding spelled out.
        return jnp.sum(jnp.sin(p["a"])) * jnp.sum(p["b"] ** 3) * jnp.exp(p["c"]) / 10

    find = jax.jit(partial(curvature.top_eigenpairs, jax.grad(loss), k=2, key=KEY))
    return find, params, find(params)
