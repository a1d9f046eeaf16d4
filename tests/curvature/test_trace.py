"""The trace and its standard error."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.curvature.problems import KEY, SPECTRA, mlp, problem, traces_of, with_spectrum
from xsam_jax import curvature


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

    @pytest.mark.parametrize("scale", [1e-22, 1e20])
    def test_units_that_float32_has_and_their_squares_not(self, scale: float) -> None:
        matrix = jnp.asarray(with_spectrum(np.asarray(SPECTRA["indefinite"])), jnp.float32)

        def estimate(scale: float) -> curvature.Estimate:
            matrix_ = jnp.float32(scale) * matrix
            w = jnp.ones(len(matrix), jnp.float32)
            return curvature.trace(lambda w: matrix_ @ w, w, num_probes=10, key=KEY)

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a / scale, b, rtol=1e-4),
            estimate(scale),
            estimate(1.0),
        )

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
