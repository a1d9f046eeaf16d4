"""Curvature against dense Hessians, prescribed spectra and the identities of linear algebra."""

import functools
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.flatten_util import ravel_pytree

from xsam_jax import curvature, mean_grad_fn

KEY = jax.random.key(7)
Loss = Callable[[Any], chex.Array]


def with_spectrum(spectrum: Any, dtype: Any = jnp.float64, *, rotate: bool = True) -> chex.Array:
    """A symmetric matrix with these eigenvalues."""
    spectrum = np.asarray(spectrum, np.float64)
    if not rotate:
        return jnp.diag(jnp.asarray(spectrum, dtype))
    normals = np.random.default_rng(0).normal(size=(spectrum.size, spectrum.size))
    basis, _ = np.linalg.qr(normals)
    return jnp.asarray(basis * spectrum @ basis.T, dtype)


def quadratic(matrix: chex.Array) -> Callable[[chex.Array], chex.Array]:
    """The gradient of ``w.T matrix w / 2``."""
    return lambda w: matrix @ w


def mlp() -> tuple[Loss, dict[str, Any]]:
    """A 5-4-3 classifier on 30 examples at a random point: 39 parameters, an indefinite Hessian."""
    keys = jax.random.split(jax.random.key(1), 4)
    x, labels = jax.random.normal(keys[0], (30, 5)), jax.random.randint(keys[1], (30,), 0, 3)
    params = {
        "hidden": [jax.random.normal(keys[2], (5, 4)), jnp.zeros(4)],
        "out": {"kernel": jax.random.normal(keys[3], (4, 3)), "bias": jnp.zeros(3)},
    }

    def loss(p: Any) -> chex.Array:
        hidden = jnp.tanh(x @ p["hidden"][0] + p["hidden"][1][None])
        logits = hidden @ p["out"]["kernel"] + p["out"]["bias"][None]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(30), labels])

    return loss, params


def convnet() -> tuple[Loss, dict[str, chex.Array]]:
    """Two 3x3 convolutions with stride and a linear layer, in PyTorch's layout, 142 parameters."""
    keys = jax.random.split(jax.random.key(2), 5)
    x, target = jax.random.normal(keys[0], (8, 1, 8, 8)), jax.random.normal(keys[1], (8, 2))
    params = {
        "first": jax.random.normal(keys[2], (3, 1, 3, 3)) / 3,
        "second": jax.random.normal(keys[3], (4, 3, 3, 3)) / 5,
        "out": jax.random.normal(keys[4], (4, 2)) / 2,
    }

    def loss(p: dict[str, chex.Array]) -> chex.Array:
        h = jnp.tanh(lax.conv_general_dilated(x, p["first"], (2, 2), "SAME"))
        h = jnp.tanh(lax.conv_general_dilated(h, p["second"], (2, 2), "SAME"))
        return jnp.mean((jnp.mean(h, axis=(2, 3)) @ p["out"] - target) ** 2)

    return loss, params


@functools.cache
def problem(net: Callable[[], tuple[Loss, Any]]) -> tuple[Loss, Any, np.ndarray]:
    """Loss, parameters and dense Hessian of a net."""
    loss, params = net()
    flat, unravel = ravel_pytree(params)
    return loss, params, np.asarray(jax.jit(jax.hessian(lambda w: loss(unravel(w))))(flat))


def flat_rows(vectors: Any) -> chex.Array:
    """The [k, size] matrix of a tree with a leading axis k."""
    return jnp.concatenate([x.reshape(len(x), -1) for x in jax.tree.leaves(vectors)], axis=1)


NETS = pytest.mark.parametrize("net", [mlp, convnet])


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


SPECTRA = {
    "separated": [9.0, 5.0, 3.0, *np.linspace(-1, 1, 47)],
    "clustered": [5.0, 4.999, 4.998, 4.0, *np.full(46, 0.5)],
    "negative": -np.geomspace(1e-3, 10, 50),
    "indefinite": [*-np.geomspace(0.1, 20, 25), *np.geomspace(0.1, 15, 25)],
    "rank one": [3.0, *np.zeros(49)],
    "negative rank one": [-3.0, *np.zeros(49)],
    "double": [4.0, 4.0, *np.full(20, 1.0), *np.zeros(28)],
    "identity": np.ones(50),
    "zero": np.zeros(50),
    "tiny": 1e-12 * np.linspace(-1, 0.9, 50),
    "huge": 1e12 * np.linspace(-1, 0.9, 50),
}


# The matrix is an argument, so that one compilation serves all spectra.
@partial(jax.jit, static_argnames=("k", "which", "num_matvecs"))
def eigenpairs_of(matrix: chex.Array, **options: Any) -> curvature.Eigenpairs:
    w = jnp.ones(len(matrix), matrix.dtype)
    return curvature.top_eigenpairs(quadratic(matrix), w, key=KEY, **options)


@partial(jax.jit, static_argnames=("num_matvecs", "num_probes"))
def density_of(matrix: chex.Array, **options: Any) -> curvature.Density:
    w = jnp.ones(len(matrix), matrix.dtype)
    return curvature.spectral_density(quadratic(matrix), w, key=KEY, **options)


@jax.jit
def traces_of(matrix: chex.Array, keys: chex.PRNGKey) -> curvature.Estimate:
    w = jnp.ones(len(matrix), matrix.dtype)
    return jax.vmap(lambda key: curvature.trace(quadratic(matrix), w, key=key))(keys)


class TestTopEigenpairs:
    @pytest.mark.parametrize("rotate", [True, False])
    @pytest.mark.parametrize("which", ["LA", "LM"])
    @pytest.mark.parametrize("name", SPECTRA)
    def test_prescribed_spectrum(self, name: str, which: str, rotate: bool) -> None:
        spectrum = np.asarray(SPECTRA[name])
        matrix = with_spectrum(spectrum, rotate=rotate)
        pairs = eigenpairs_of(matrix, k=3, which=which, num_matvecs=50)
        ranking = -np.abs(spectrum) if which == "LM" else -spectrum
        expected = spectrum[np.argsort(ranking, kind="stable")][:3]
        scale = np.max(np.abs(spectrum))
        np.testing.assert_allclose(pairs.values, expected, rtol=1e-6, atol=1e-12 * scale)
        np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(3), atol=1e-12)
        defects = pairs.vectors @ matrix - pairs.values[:, None] * pairs.vectors
        np.testing.assert_allclose(
            pairs.residuals, np.linalg.norm(defects, axis=1), atol=1e-14 * scale
        )
        assert np.all(pairs.residuals <= 1e-7 * scale)

    @pytest.mark.parametrize(("net", "which"), [(mlp, "LM"), (convnet, "LA")])
    def test_dense_hessian_of_a_net(self, net: Any, which: str) -> None:
        loss, params, hessian = problem(net)
        spectrum, basis = np.linalg.eigh(hessian)
        order = np.argsort(-np.abs(spectrum) if which == "LM" else -spectrum)[:3]
        find = partial(curvature.top_eigenpairs, jax.grad(loss), k=3, which=which, key=KEY)
        pairs = jax.jit(find)(params)
        np.testing.assert_allclose(pairs.values, spectrum[order], rtol=1e-6)
        jax.tree.map(lambda x, like: chex.assert_shape(x, (3, *like.shape)), pairs.vectors, params)
        cosines = np.sum(flat_rows(pairs.vectors) * basis[:, order].T, axis=1)
        np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-6)

    @pytest.mark.parametrize("name", SPECTRA)
    def test_float32_residual_bounds_the_error(self, name: str) -> None:
        spectrum = np.asarray(SPECTRA[name])
        matrix = with_spectrum(spectrum, jnp.float32)
        pairs = eigenpairs_of(matrix, k=2)
        assert pairs.values.dtype == pairs.vectors.dtype == pairs.residuals.dtype == jnp.float32
        exact = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
        distance = np.min(np.abs(np.asarray(pairs.values)[:, None] - exact), axis=1)
        rounding = 1e-6 * np.max(np.abs(spectrum))
        assert np.all(distance <= np.asarray(pairs.residuals) + rounding)
        assert np.all(np.asarray(pairs.residuals) <= 1e-2 * np.max(np.abs(spectrum)))

    def test_unconverged_values_lie_within_their_residual_of_an_eigenvalue(self) -> None:
        spectrum = np.linspace(-1, 1, 400)
        pairs = eigenpairs_of(with_spectrum(spectrum), k=4, num_matvecs=8)
        distance = np.min(np.abs(np.asarray(pairs.values)[:, None] - spectrum), axis=1)
        assert np.all(distance <= pairs.residuals)
        # Ritz values interlace: each lies below the eigenvalue of its rank, here visibly.
        assert np.all(pairs.values < spectrum[::-1][:4])
        assert np.all(pairs.residuals > 1e-3)

    @settings(max_examples=40, deadline=None)
    @given(
        case=st.sampled_from(
            [(1, jnp.float64), (2, jnp.float32), (3, jnp.float64), (7, jnp.float32)]
        ),
        seed=st.integers(0, 1000),
        rank=st.integers(0, 7),
        signs=st.lists(st.sampled_from([-1, 1]), min_size=7, max_size=7),
    )
    def test_whole_spectrum_of_a_small_matrix(
        self, case: tuple[int, Any], seed: int, rank: int, signs: list[int]
    ) -> None:
        size, dtype = case
        factor = np.random.default_rng(seed).normal(size=(size, min(rank, size)))
        matrix = jnp.asarray(factor * signs[: factor.shape[1]] @ factor.T, dtype)
        values, vectors, _ = (np.asarray(x) for x in eigenpairs_of(matrix, k=size))
        dense = np.asarray(matrix, np.float64)
        exact = np.linalg.eigvalsh(dense)[::-1]
        tolerance = 100 * float(jnp.finfo(dtype).eps) * np.max(np.abs(exact))
        np.testing.assert_allclose(values, exact, rtol=0, atol=tolerance)
        np.testing.assert_allclose(vectors.T * values @ vectors, dense, atol=size * tolerance)

    def test_shift_and_scale(self) -> None:
        matrix = with_spectrum(SPECTRA["separated"])
        options = {"k": 3, "which": "LA", "num_matvecs": 50}
        values = eigenpairs_of(matrix, **options).values
        shifted = eigenpairs_of(3 * matrix - 4 * jnp.eye(50), **options).values
        np.testing.assert_allclose(shifted, 3 * values - 4, atol=1e-12)

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

    def test_not_finite_hessian_is_not_hidden(self) -> None:
        pairs = eigenpairs_of(jnp.full((50, 50), jnp.nan), k=3, which="LA", num_matvecs=50)
        assert np.all(np.isnan(pairs.values))
        assert np.all(np.isnan(pairs.residuals))

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
        mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
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

    @pytest.mark.parametrize(
        ("error", "match", "arguments"),
        [
            (ValueError, "k must be an integer >= 1, got 0", {"k": 0}),
            (TypeError, "k must be an integer >= 1, got 1.5", {"k": 1.5}),
            (ValueError, "k must be at most num_matvecs = 3 .* got 4", {"k": 4, "num_matvecs": 3}),
            (ValueError, "number of parameters = 5, got 6", {"k": 6}),
            (ValueError, "num_matvecs must be an integer >= 1, got -2", {"num_matvecs": -2}),
            (ValueError, "which must be 'LA' or 'LM', got 'SA'", {"which": "SA"}),
            (ValueError, "params must have at least one element", {"params": {}}),
            (TypeError, "params must be real floating-point", {"params": jnp.arange(3)}),
        ],
    )
    def test_wrong_arguments(self, error: Any, match: str, arguments: dict[str, Any]) -> None:
        with pytest.raises(error, match=match):
            curvature.top_eigenpairs(
                **{"grad_fn": lambda w: w, "params": jnp.ones(5), "key": KEY, **arguments}
            )


@functools.cache
def _sharding_problem() -> tuple[Any, dict[str, chex.Array], curvature.Eigenpairs]:
    """The search for two eigenpairs, its parameters, and its result for unsharded parameters."""
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


class TestSpectralDensity:
    @pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
    @pytest.mark.parametrize("name", SPECTRA)
    def test_is_a_density_with_the_mean_of_the_spectrum(self, name: str, dtype: Any) -> None:
        spectrum = np.asarray(SPECTRA[name])
        grid, density = density_of(with_spectrum(spectrum, dtype), num_probes=40)
        assert grid.dtype == density.dtype == dtype
        assert np.all(density >= 0)
        grid, density = np.asarray(grid, np.float64), np.asarray(density, np.float64)
        np.testing.assert_allclose(np.trapezoid(density, grid), 1, rtol=1e-5)
        # v.T H v for v uniform on the sphere has the variance 2 var(spectrum) / (size + 2).
        error = np.sqrt(2 * np.var(spectrum) / (spectrum.size + 2) / 40)
        rounding = 10 * float(jnp.finfo(dtype).eps) ** 0.75 * (np.max(np.abs(spectrum)) or 1)
        mean = np.trapezoid(density * grid, grid)
        assert abs(mean - spectrum.mean()) <= 4 * error + rounding

    def test_clusters_have_their_mass(self) -> None:
        spectrum = np.repeat([0.0, 2.0, -1.0], [30, 15, 5])
        grid, density = density_of(with_spectrum(spectrum), num_probes=40)
        for centre, mass in ((0.0, 0.6), (2.0, 0.3), (-1.0, 0.1)):
            near = np.abs(grid - centre) < 0.2
            # A probe's share of a subspace has a beta distribution.
            error = np.sqrt(2 * mass * (1 - mass) / 52 / 40)
            assert abs(np.trapezoid(np.where(near, density, 0), grid) - mass) < 4 * error

    def test_few_nodes_match_many_in_the_moments(self) -> None:
        # Gauss quadrature with m nodes is exact for polynomials of degree 2 m - 1.
        matrix = with_spectrum(np.linspace(-1, 3, 50))
        moments = []
        for options in ({"num_matvecs": 2}, {}):
            grid, density = density_of(matrix, num_probes=40, **options)
            # The third cumulant, to which the Gaussian adds nothing.
            mean = jnp.trapezoid(density * grid, grid)
            moments.append([mean, jnp.trapezoid(density * (grid - mean) ** 3, grid)])
        np.testing.assert_allclose(moments[0], moments[1], rtol=1e-6)

    @pytest.mark.parametrize("name", ["num_matvecs", "num_probes"])
    def test_wrong_arguments(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"{name} must be an integer >= 1, got 0"):
            curvature.spectral_density(lambda w: w, jnp.ones(3), **{name: 0}, key=KEY)


class TestTrace:
    @pytest.mark.parametrize("name", ["separated", "negative", "indefinite", "clustered"])
    def test_interval_covers_the_truth(self, name: str) -> None:
        spectrum = np.asarray(SPECTRA[name])
        estimates = traces_of(with_spectrum(spectrum), jax.random.split(KEY, 200))
        z = (estimates.value - spectrum.sum()) / estimates.standard_error
        assert np.mean(np.abs(z) <= 1.96) >= 0.9
        # Nor is it wider than it should be.
        assert np.sqrt(np.mean(z**2)) >= 0.85

    def test_interval_of_a_net(self) -> None:
        loss, params, hessian = problem(mlp)
        estimate = jax.jit(jax.vmap(lambda key: curvature.trace(jax.grad(loss), params, key=key)))
        estimates = estimate(jax.random.split(KEY, 200))
        errors = np.abs(estimates.value - np.trace(hessian))
        assert np.mean(errors <= 1.96 * estimates.standard_error) >= 0.9

    @pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
    def test_diagonal_hessian_is_exact_to_the_rounding_it_states(self, dtype: Any) -> None:
        diagonal = jax.random.normal(KEY, (1000,), dtype)
        value, error = curvature.trace(
            lambda w: diagonal * w, jnp.ones(1000, dtype), num_probes=10, key=KEY
        )
        assert value.dtype == error.dtype == dtype
        truth = np.sum(np.asarray(diagonal, np.float64))
        assert abs(float(value) - truth) <= 1.96 * float(error)
        assert error <= 1e5 * jnp.finfo(dtype).eps

    def test_variance_is_hutchinsons(self) -> None:
        matrix = with_spectrum(SPECTRA["separated"])
        _, errors = traces_of(matrix, jax.random.split(KEY, 200))
        variance = 2 * (jnp.sum(matrix**2) - jnp.sum(jnp.diag(matrix) ** 2))
        np.testing.assert_allclose(jnp.mean(errors**2) * 100, variance, rtol=0.1)

    def test_one_probe_has_no_standard_error(self) -> None:
        with pytest.raises(ValueError, match="num_probes must be an integer >= 2, got 1"):
            curvature.trace(lambda w: w, jnp.ones(3), num_probes=1, key=KEY)


def _trees(seed: int, dtype: Any = jnp.float64) -> tuple[Any, Any]:
    keys = jax.random.split(jax.random.key(seed), 4)
    shapes = {"kernel": (3, 2), "bias": (2,)}
    first, second = (
        {
            name: jax.random.normal(key, shape, dtype)
            for (name, shape), key in zip(shapes.items(), pair, strict=True)
        }
        for pair in (keys[:2], keys[2:])
    )
    return first, second


def _degrees(a: Any, b: Any) -> float:
    a, b = np.concatenate(a), np.concatenate(b)
    return float(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))


class TestAngle:
    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
    def test_plain(self, seed: int, scale: float) -> None:
        grads, v = _trees(seed)
        expected = _degrees(*([x.ravel() for x in jax.tree.leaves(t)] for t in (grads, v)))
        np.testing.assert_allclose(curvature.angle(grads, v), expected, rtol=1e-9)
        np.testing.assert_allclose(curvature.angle(v, grads), expected, rtol=1e-9)
        scaled = jax.tree.map(lambda x: -scale * x, v)
        np.testing.assert_allclose(curvature.angle(grads, scaled), 180 - expected, rtol=1e-9)

    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
    def test_layerwise(self, seed: int, scale: float) -> None:
        grads, v = _trees(seed)
        layers = [x.ravel() / np.linalg.norm(x) for x in jax.tree.leaves(grads)]
        expected = _degrees(layers, [x.ravel() for x in jax.tree.leaves(v)])
        found = curvature.angle(grads, v, layerwise=True)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        # The size of a layer's gradient does not count, the eigenvector's does.
        grads["kernel"] *= scale
        np.testing.assert_allclose(curvature.angle(grads, v, layerwise=True), expected, rtol=1e-9)

    def test_layerwise_weighs_the_layers_by_the_eigenvector(self) -> None:
        v = {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([12.0])}
        np.testing.assert_allclose(curvature.angle(v, v), 0, atol=1e-12)
        expected = np.degrees(np.arccos((5 + 12) / np.sqrt(2) / 13))
        np.testing.assert_allclose(curvature.angle(v, v, layerwise=True), expected)

    @pytest.mark.parametrize("degrees", [0.0, 1e-9, 1e-3, 45.0, 90.0, 135.0, 180 - 1e-6, 180.0])
    @pytest.mark.parametrize("layerwise", [False, True])
    def test_is_accurate_everywhere(self, degrees: float, layerwise: bool) -> None:
        radians = np.radians(degrees)
        grads = {"w": jnp.array([np.cos(radians), np.sin(radians)])}
        found = curvature.angle(grads, {"w": jnp.array([1.0, 0.0])}, layerwise=layerwise)
        np.testing.assert_allclose(found, degrees, rtol=1e-7, atol=1e-13)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
    def test_accumulates_in_float32_or_better(self, dtype: Any) -> None:
        grads = {"w": jnp.ones(100_000, dtype)}
        v = {"w": jnp.concatenate([jnp.ones(50_000, dtype), jnp.zeros(50_000, dtype)])}
        found = curvature.angle(grads, v)
        assert found.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
        np.testing.assert_allclose(found, 45, rtol=1e-5)

    @pytest.mark.parametrize("layerwise", [False, True])
    def test_zero_gradient(self, layerwise: bool) -> None:
        assert curvature.angle(jnp.zeros(3), jnp.ones(3), layerwise=layerwise) == 90

    def test_wrong_arguments(self) -> None:
        with pytest.raises(ValueError, match="v must have the tree structure"):
            curvature.angle({"a": jnp.ones(2)}, {"b": jnp.ones(2)})
        with pytest.raises(TypeError, match="layerwise must be True or False, got 'yes'"):
            curvature.angle(jnp.ones(2), jnp.ones(2), layerwise="yes")  # type: ignore[arg-type]
