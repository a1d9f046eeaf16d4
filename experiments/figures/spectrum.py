"""Fig. 3: the largest eigenvalues and the spectral density of the final networks."""

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp

from experiments.common.drawing import new_figure, write_figure, write_table
from experiments.common.files import write_atomically
from experiments.common.options import AT_LEAST_ONE, check
from experiments.figures import curves
from experiments.figures.curves import Curves
from experiments.figures.options import size_of_runs, train_config
from experiments.figures.runs import arrays, read_arrays, read_weights
from experiments.models.network import Batch, Network, build_network
from experiments.training.config import Method
from experiments.training.measure import fixed_subset, subset_gradient
from experiments.training.program import load_for
from experiments.training.resolve import resolve
from experiments.training.spectra import Spectrum as Measured
from experiments.training.spectra import draw, spectrum


@dataclass(frozen=True, kw_only=True)
class Spectrum(Curves):
    """Fig. 3: the top eigenvalues and the spectral density of the final networks."""

    methods: tuple[Method, ...] = ("sam", "xsam", "xsam_projector")
    """Methods to compare. The runs are those of curves with the same options."""
    k: int = 10
    """Number of eigenvalues."""
    spectrum_matvecs: int = 20
    """Hessian-vector products for the eigenvalues, and again for each probe of the density."""
    num_probes: int = 3
    """Random vectors over which the density is averaged."""


def measure(
    network: Network,
    params: chex.ArrayTree,
    batch_stats: chex.ArrayTree,
    subset: Batch,
    options: Spectrum,
) -> Measured:
    """Measure the spectrum of a network in evaluation mode.

    Args:
        network: The network.
        params: Its parameters.
        batch_stats: Its batch statistics.
        subset: Batches of training images, stacked on a leading axis.
        options: Number of eigenvalues, products and probes.

    Returns:
        The measurement.
    """

    @jax.jit
    def compiled(params: chex.ArrayTree, batch_stats: chex.ArrayTree, subset: Batch) -> Measured:
        grad_fn = subset_gradient(network.predict, batch_stats, subset)
        return spectrum(
            grad_fn,
            params,
            k=options.k,
            num_matvecs=options.spectrum_matvecs,
            num_probes=options.num_probes,
        )[0]

    found: Measured = compiled(params, batch_stats, subset)
    return found


def make(options: Spectrum) -> None:
    """Train with all methods and write spectrum.png, spectrum.csv and spectrum_density.csv."""
    for name in ("k", "spectrum_matvecs", "num_probes"):
        check(name, getattr(options, name), AT_LEAST_ONE)
    products = options.spectrum_matvecs
    check("k", options.k, (lambda k: k <= products, f"at most --spectrum-matvecs {products}"))
    finished = curves.runs(options)
    config = resolve(train_config(options, curvature_samples=options.curvature_samples))
    data = load_for(config)
    network = build_network(config.model, data, jax.random.key(0))
    train_data = Batch(jnp.asarray(data.train_images), jnp.asarray(data.train_labels))
    subset = fixed_subset(train_data, config.curvature_samples)
    file = f"spectrum-{options.k}-{options.spectrum_matvecs}-{options.num_probes}.npz"
    measured: dict[tuple[Method, int], Measured] = {}
    for method, of_method in finished.items():
        for run in of_method:
            if not (run.out / file).exists():
                trees = read_weights(run.out / "weights.npz", network)
                found = measure(network, *trees, subset, options)
                write_atomically(run.out / file, arrays(**found._asdict()))
            found = Measured(*read_arrays(run.out / file, Measured._fields))
            measured[method, run.result.seed] = found
    _write_tables(options, measured)
    _draw(options, measured, subset.labels.size)


def _write_tables(options: Spectrum, measured: dict[tuple[Method, int], Measured]) -> None:
    write_table(
        options.out / "spectrum.csv",
        ("method", "seed", "index", "eigenvalue", "residual"),
        (
            (*which, i, float(value), float(residual))
            for which, m in measured.items()
            for i, (value, residual) in enumerate(zip(m.values, m.residuals, strict=True), 1)
        ),
    )
    write_table(
        options.out / "spectrum_density.csv",
        ("method", "seed", "eigenvalue", "density"),
        (
            (*which, float(value), float(density))
            for which, m in measured.items()
            # Every fourth point of the grid draws the same curve.
            for value, density in zip(m.grid[::4], m.density[::4], strict=True)
        ),
    )


def _draw(options: Spectrum, measured: dict[tuple[Method, int], Measured], images: int) -> None:
    figure = new_figure(
        11,
        4.8,
        "Hessian spectrum of the final networks",
        f"{size_of_runs(options)}, {curves.schedule(options)}; "
        f"Hessian on {images} training images, one line per seed",
    )
    top, density = figure.subplots(1, 2)
    lines = [
        (options.methods.index(method), method if seed == options.seeds[0] else None, m)
        for (method, seed), m in measured.items()
    ]
    draw(top, density, lines, options.num_probes)
    write_figure(figure, options.out / "spectrum.png")
