"""Fig. 1: the angle between SAM's second gradient and the dominant eigenvector."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from matplotlib.axes import Axes
from numpy.typing import NDArray

from experiments.config import resolve
from experiments.options import positive
from experiments.plots.options import FigureOptions, size_of_runs, train_config
from experiments.plots.output import COLORS, new_figure, write_figure, write_table
from experiments.plots.runs import arrays, read_arrays, run_once
from experiments.sharpness import fold
from experiments.step import TrainState
from xsam_jax import curvature

GradFn = Callable[[chex.ArrayTree], chex.ArrayTree]

_BIN = 5  # degrees
_ORTHOGONAL = 80  # degrees, folded: the paper's range from 80 to 100


@dataclass(frozen=True, kw_only=True)
class Angle(FigureOptions):
    """Fig. 1: histogram of the angle between SAM's second gradient and the top eigenvector."""

    every: int = 5
    """Steps between two measurements."""
    num_matvecs: int = 16
    """Hessian-vector products of the Lanczos method."""


class Measured(NamedTuple):
    """One measurement, or an array of them.

    Attributes:
        plain: Degrees in [0, 90] between the gradient and the eigenvector.
        layerwise: The same with the gradient of each layer normalised (section 4.1).
        top_value: The eigenvalue, of the Hessian of the step's mini-batch.
        residual: Norm of the Hessian times the eigenvector minus the eigenvalue times it.
    """

    plain: Any
    layerwise: Any
    top_value: Any
    residual: Any


class ObservedState(NamedTuple):
    """State of a method and the measurements beside it; those still to come are NaN.

    A step of the run that is not finite changes nothing, so it is not counted here.
    """

    inner: optax.OptState
    step: jax.Array
    measured: Measured


def measure(
    grad_fn: GradFn, params: chex.ArrayTree, grads: chex.ArrayTree, rho: float, num_matvecs: int
) -> Measured:
    """Measure the angle at one point.

    Args:
        grad_fn: Gradient of the mini-batch's loss.
        params: The point.
        grads: The gradient there.
        rho: Radius of SAM.
        num_matvecs: Hessian-vector products.

    Returns:
        The measurement.
    """
    second = grad_fn(optax.tree.add_scale(params, rho / optax.tree.norm(grads), grads))
    top = curvature.top_eigenpairs(
        grad_fn, params, num_matvecs=num_matvecs, which="LA", key=jax.random.key(0)
    )
    vector = jax.tree.map(lambda leaf: leaf[0], top.vectors)
    return Measured(
        fold(curvature.angle(second, vector)),
        fold(curvature.angle(second, vector, layerwise=True)),
        top.values[0],
        top.residuals[0],
    )


def observe(
    tx: optax.GradientTransformationExtraArgs,
    steps: int,
    *,
    rho: float,
    every: int,
    num_matvecs: int,
) -> optax.GradientTransformationExtraArgs:
    """Let a method train as it does and measure the angle on the mini-batch of every k-th step.

    Args:
        tx: The method.
        steps: Number of all its steps.
        rho: Radius of SAM.
        every: Steps between two measurements; the first step is measured.
        num_matvecs: Hessian-vector products of a measurement.

    Returns:
        The same method, with `ObservedState`.
    """

    def init(params: chex.ArrayTree) -> ObservedState:
        none = Measured(*jnp.full((4, -(-steps // every)), jnp.nan))
        return ObservedState(tx.init(params), jnp.zeros((), jnp.int32), none)

    def update(
        updates: chex.ArrayTree,
        state: ObservedState,
        params: chex.ArrayTree | None = None,
        *,
        grad_fn: GradFn,
        **extra_args: Any,
    ) -> tuple[chex.ArrayTree, ObservedState]:
        def measured(before: Measured) -> Measured:
            new = measure(grad_fn, params, updates, rho, num_matvecs)
            i = state.step // every
            return Measured(*(all_.at[i].set(x) for all_, x in zip(before, new, strict=True)))

        after = lax.cond(state.step % every == 0, measured, lambda before: before, state.measured)
        updates_, inner = tx.update(updates, state.inner, params, grad_fn=grad_fn, **extra_args)
        return updates_, ObservedState(inner, state.step + 1, after)

    return optax.GradientTransformationExtraArgs(init, update)


def histogram(degrees: NDArray[np.floating[Any]]) -> tuple[NDArray[np.intp], NDArray[np.int_]]:
    """Counts and edges of bins of 5 degrees; an angle that is not a number is in none."""
    edges = np.arange(0, 91, _BIN)
    return np.histogram(np.minimum(degrees[np.isfinite(degrees)], 90), edges)[0], edges


def make(options: Angle) -> None:
    """Train with SAM and write angle.png and angle.csv."""
    positive("every", options.every)
    positive("num-matvecs", options.num_matvecs)
    name = f"angles-{options.every}-{options.num_matvecs}.npz"
    rho = resolve(train_config(options, method="sam")).rho
    # One for all seeds: a run is compiled anew for another one.
    watch = partial(observe, rho=rho, every=options.every, num_matvecs=options.num_matvecs)
    rows, tables = [], []
    for seed in options.seeds:
        config = train_config(options, method="sam", seed=seed, curvature_every=0)
        run = run_once(config, options.runs, observe=watch, save={name: _measurements})
        table = Measured(*read_arrays(run.out / name, Measured._fields))
        tables.append(table)
        rows += [
            (seed, i * options.every, *map(float, row))
            for i, row in enumerate(zip(*table, strict=True))
            if np.isfinite(row[0])
        ]
    write_table(options.out / "angle.csv", ("seed", "step", *Measured._fields), rows)

    all_ = Measured(*(np.concatenate(column) for column in zip(*tables, strict=True)))
    figure = new_figure(
        10,
        4.6,
        "Angle between SAM's second gradient and the dominant Hessian eigenvector",
        f"{size_of_runs(options)}; mini-batch Hessian every {options.every} steps",
    )
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, all_.plain, "Plain", COLORS[0])
    _bars(right, all_.layerwise, "Layerwise, the gradient of each layer normalised", COLORS[1])
    left.set_ylabel("measurements")
    write_figure(figure, options.out / "angle.png")


def share_of_orthogonal(degrees: NDArray[np.floating[Any]]) -> tuple[float, int]:
    """Percent of folded angles in [80, 90], which are those in [80, 100] before, and of how many.

    An angle that is not a number is none.
    """
    known = degrees[np.isfinite(degrees)]
    return 100 * float(np.mean(known >= _ORTHOGONAL)), known.size


def _measurements(state: TrainState) -> bytes:
    observed: Any = state.opt_state
    return arrays(**observed.measured._asdict())


def _bars(axes: Axes, degrees: NDArray[np.floating[Any]], title: str, color: str) -> None:
    counts, edges = histogram(degrees)
    share, number = share_of_orthogonal(degrees)
    axes.axvspan(_ORTHOGONAL, 90, color="0.9", zorder=0)
    axes.bar(edges[:-1], counts, width=_BIN, align="edge", color=color, edgecolor="white")
    axes.set(
        xlabel="angle (degrees; 100 counts as 80)",
        xlim=(0, 90),
        xticks=range(0, 91, 10),
        title=f"{title}\n{share:.0f} % of {number} are "
        f"between 80 and 100 (grey; paper: about 45 %)",
    )
    axes.title.set_fontsize(9.5)
    axes.grid(axis="y", alpha=0.3)
