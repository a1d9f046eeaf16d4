"""The Hessian spectrum of trained networks, measured and drawn."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from experiments.common.drawing import style
from xsam_jax import curvature


class Spectrum(NamedTuple):
    """Largest eigenvalues [k] with residual norms [k], and density [n] over a grid [n]."""

    values: chex.Array
    residuals: chex.Array
    grid: chex.Array
    density: chex.Array


def spectrum(
    grad_fn: Callable[[chex.ArrayTree], chex.ArrayTree],
    params: chex.ArrayTree,
    *,
    k: int,
    num_matvecs: int,
    num_probes: int,
) -> tuple[Spectrum, chex.ArrayTree]:
    """Measure the spectrum at one point.

    Args:
        grad_fn: Gradient of the loss.
        params: The point.
        k: Number of eigenvalues.
        num_matvecs: Hessian-vector products for the eigenvalues, and again for each probe of the
            density.
        num_probes: Random vectors over which the density is averaged.

    Returns:
        The measurement, and the eigenvectors, stacked on a leading axis.
    """
    key = jax.random.key(0)
    pairs = curvature.top_eigenpairs(
        grad_fn, params, k, num_matvecs=num_matvecs, which="LA", key=key
    )
    density = curvature.spectral_density(
        grad_fn, params, num_matvecs=num_matvecs, num_probes=num_probes, key=key
    )
    return Spectrum(pairs.values, pairs.residuals, *density), pairs.vectors


def draw(
    top: Axes, density: Axes, lines: Sequence[tuple[int, str | None, Spectrum]], probes: int
) -> None:
    """Draw eigenvalues by their index, and densities.

    Args:
        top: Where the eigenvalues go.
        density: Where the densities go.
        lines: Number of each network's style, its name in the legend, its spectrum.
        probes: Of the densities.
    """
    for i, label, found in lines:
        how = {**style(i), "linewidth": 1.3, "label": label}
        top.plot(np.arange(1, len(found.values) + 1), found.values, **how)
        density.plot(found.grid, np.maximum(found.density, 1e-12), **{**how, "marker": None})
    top.set(
        xlabel="index of the eigenvalue",
        ylabel="eigenvalue (loss per squared parameter)",
        title=f"Top {max(len(found.values) for *_, found in lines)} eigenvalues",
        ylim=(0, None),
    )
    top.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    peak = max(float(np.max(found.density)) for *_, found in lines)
    density.set(
        xlabel="eigenvalue (loss per squared parameter)",
        ylabel="density (logarithmic)",
        title=f"Spectral density, {probes} probes",
        yscale="log",
        ylim=(1e-8 * peak, 2 * peak),
    )
    for axes in (top, density):
        axes.grid(alpha=0.3)
    top.legend()
