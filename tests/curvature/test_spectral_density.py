"""The density of prescribed spectra."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.curvature.problems import KEY, SPECTRA, density_of, with_spectrum
from xsam_jax import curvature


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
