"""README's picture of the idea: one step of X-SAM on a loss of two weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.drawing import COLORS, write_figure
from xsam_jax import power_iteration, xsam

_RHO, _ALPHA = 0.45, 0.6
_EIGENVALUES = (6.0, 0.7)
_AXES = np.array([[np.cos(0.44), np.sin(0.44)], [-np.sin(0.44), np.cos(0.44)]])  # rows
_HESSIAN = (_AXES.T * _EIGENVALUES) @ _AXES


@dataclass(frozen=True, kw_only=True)
class Idea:
    """The idea: perturbation, eigenvector and corrected step on a loss of two weights."""

    out: Path = Path("runs/figures")
    """Folder of the picture."""


class Picture(NamedTuple):
    """The arrows of the picture.

    Attributes:
        weights: Where the step starts, [2].
        perturbation: Of norm rho, to the worst point of the ball, [2].
        uncorrected: The direction with alpha = 0, of norm one, [2].
        corrected: The direction with alpha, [2].
        eigenvector: Of the largest eigenvalue, [2].
    """

    weights: np.ndarray
    perturbation: np.ndarray
    uncorrected: np.ndarray
    corrected: np.ndarray
    eigenvector: np.ndarray


def loss(weights: jax.Array) -> jax.Array:
    """Compute a quadratic loss that is steep along one axis."""
    return weights @ jnp.asarray(_HESSIAN, weights.dtype) @ weights / 2


def measure() -> Picture:
    """Take the step with the library itself."""
    weights = jnp.asarray(np.array([0.32, 1.75]) @ _AXES, jnp.float32)
    grad_fn = jax.grad(loss)
    gradient = grad_fn(weights)
    tracker = power_iteration(every=1, iters=30, start=jnp.asarray(_AXES.sum(0), jnp.float32))

    def direction(alpha: float) -> tuple[jax.Array, jax.Array]:
        tx = xsam(_RHO, alpha, eigenvector=tracker)
        updates, state = tx.update(gradient, tx.init(weights), weights, grad_fn=grad_fn)
        return updates, state.eigenvector

    uncorrected, eigenvector = direction(0.0)
    corrected, _ = direction(_ALPHA)
    perturbation = _RHO * gradient / jnp.linalg.norm(gradient)
    return Picture(*map(np.asarray, (weights, perturbation, uncorrected, corrected, eigenvector)))


def make(options: Idea) -> None:
    """Draw idea.png."""
    picture = measure()
    figure = Figure(figsize=(6.6, 4.6), layout="constrained")
    axes = figure.subplots()
    x, y = np.meshgrid(np.linspace(-2.3, 1.5, 200), np.linspace(-0.35, 2.45, 200))
    points = np.stack([x, y], axis=-1)
    heights = np.einsum("...i,ij,...j", points, _HESSIAN, points) / 2
    axes.contourf(x, y, heights, levels=22, cmap="Blues", alpha=0.75)
    axes.contour(x, y, heights, levels=22, colors="white", linewidths=0.4)

    w, v = picture.weights, picture.eigenvector * np.sign(picture.eigenvector[0])
    axes.axline(tuple(w), tuple(w + v), color="0.25", linestyle=":", linewidth=1.4)
    axes.annotate(
        "eigenvector v: the loss\nis sharpest along it",
        xy=(w[0] + 1.3 * v[0], w[1] + 1.3 * v[1]),
        xytext=(14, -66),
        textcoords="offset points",
        fontsize=9,
        color="0.2",
        ha="center",
        arrowprops={"arrowstyle": "-", "color": "0.4", "linewidth": 0.8},
    )
    _arrow(axes, w, picture.perturbation, "e: up to the worst\npoint nearby", (-66, 8), COLORS[1])
    _arrow(axes, w, -picture.uncorrected, "-u: normalised SAM", (-34, -14), COLORS[3])
    _arrow(axes, w, -picture.corrected, "-d: X-SAM's step,\nless along v", (40, -16), COLORS[2])
    axes.plot(*w, "o", color="black", markersize=6)
    axes.annotate("w", xy=(w[0], w[1]), xytext=(-9, 8), textcoords="offset points", fontsize=11)
    axes.plot(0, 0, "*", color="black", markersize=11)
    axes.annotate(
        "minimum", xy=(0, 0), xytext=(0, -13), textcoords="offset points", ha="center", fontsize=9
    )
    axes.set(xticks=[], yticks=[], xlim=(-2.3, 1.5), ylim=(-0.35, 2.45), aspect="equal")
    write_figure(figure, options.out / "idea.png")


def _arrow(
    axes: Axes,
    start: np.ndarray,
    change: np.ndarray,
    label: str,
    offset: tuple[int, int],
    color: str,
) -> None:
    end = start + change
    arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 2.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=tuple(end), xytext=tuple(start), arrowprops=arrow)
    axes.annotate(
        label,
        xy=end,
        xytext=offset,
        textcoords="offset points",
        color=color,
        fontsize=10,
        fontweight="bold",
        ha="center",
        va="center",
    )
