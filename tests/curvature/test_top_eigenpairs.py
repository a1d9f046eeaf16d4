"""Leading eigenpairs of prescribed spectra and of dense Hessians."""

import math
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.curvature.problems import (
    KEY,
    SPECTRA,
    convnet,
    eigenpairs_of,
    flat_rows,
    mlp,
    problem,
    with_spectrum,
)
from xsam_jax import curvature


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

    @pytest.mark.parametrize("scale", [1e-22, 1e20])
    def test_units_that_float32_has_and_their_squares_not(self, scale: float) -> None:
        matrix = with_spectrum(np.asarray([9.0, 4.0, 1.0, 0.0, -2.0]), rotate=True)
        scaled = jnp.asarray(scale * matrix, jnp.float32)
        pairs = curvature.top_eigenpairs(
            lambda w: scaled @ w, jnp.ones(5, jnp.float32), k=2, num_matvecs=4, key=KEY
        )
        values, residuals = (
            np.asarray(x, np.float64) / scale for x in (pairs.values, pairs.residuals)
        )
        vectors = np.asarray(pairs.vectors, np.float64)
        defects = vectors @ matrix - values[:, None] * vectors
        np.testing.assert_allclose(residuals, np.linalg.norm(defects, axis=1), atol=1e-5)
        np.testing.assert_allclose(np.abs(values - [9, 4]) <= residuals + 1e-5, True)

    def test_start(self) -> None:
        matrix = with_spectrum(np.asarray(SPECTRA["clustered"]), rotate=True)
        size = len(matrix)
        (vector,) = eigenpairs_of(matrix, num_matvecs=50).vectors
        rough = vector + 0.1 * np.random.default_rng(1).normal(size=size) / math.sqrt(size)
        cold = eigenpairs_of(matrix, num_matvecs=2)
        warm = eigenpairs_of(matrix, num_matvecs=2, start=rough)
        assert warm.residuals[0] < cold.residuals[0] / 3
        # An eigenvector itself is a Krylov space of one dimension: it breaks down and is mended.
        exact = eigenpairs_of(matrix, num_matvecs=5, start=vector)
        assert exact.residuals[0] <= 1e-7 * np.max(np.abs(matrix))
        # What is no direction is replaced by the random vector.
        for nothing in (np.zeros(size), np.full(size, np.nan), np.full(size, np.inf)):
            other = eigenpairs_of(matrix, num_matvecs=2, start=nothing)
            chex.assert_trees_all_close(other.values, cold.values, rtol=1e-12)
        with pytest.raises(ValueError, match="start must have the shapes of params"):
            eigenpairs_of(matrix, start=np.ones(size + 1))

    def test_a_start_of_several_dtypes(self) -> None:
        params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2, jnp.float32)}
        gradient = lambda w: jax.tree.map(lambda leaf: 2 * leaf, w)
        found = curvature.top_eigenpairs(gradient, params, num_matvecs=1, start=params, key=KEY)
        np.testing.assert_allclose(found.values, [2.0], rtol=1e-6)
        for leaf in jax.tree.leaves(found.vectors):
            np.testing.assert_allclose(leaf, [[0.5, 0.5]], rtol=1e-6)

    def test_a_start_whose_norm_overflows_its_dtype(self) -> None:
        """Else it would be as if there were none."""
        size = 100_000  # norm 316, its square above what float16 holds
        grad_fn = lambda w: jnp.full_like(w, jnp.mean(w))  # its eigenvector: ones
        start = jnp.ones(size, jnp.float16)
        params = jnp.zeros(size, jnp.float32)
        pairs = curvature.top_eigenpairs(
            grad_fn, params, num_matvecs=1, start=start, key=jax.random.key(0)
        )
        np.testing.assert_allclose(pairs.values, [1], rtol=1e-5)

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

    def test_not_finite_hessian_is_not_hidden(self) -> None:
        pairs = eigenpairs_of(jnp.full((50, 50), jnp.nan), k=3, which="LA", num_matvecs=50)
        assert np.all(np.isnan(pairs.values))
        assert np.all(np.isnan(pairs.residuals))

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
