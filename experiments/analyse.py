"""Curvature of trained networks: top eigenvalues, spectral density, trace and angle.

python -m experiments.analyse runs/digits-simple_cnn-sam-0
python -m experiments.analyse runs/digits-mlp-sam-0 runs/digits-mlp-xsam-0 --images 512

Takes the weights from the folders of experiments.train, whatever method and devices they were
trained with. BatchNorm has its running statistics. Writes a picture, a table, and the numbers as
JSON and CSV.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tyro

from experiments.common.drawing import Value, new_figure, write_figure, write_table
from experiments.common.errors import command_line, exit_on_user_error
from experiments.common.files import check_folder, finite, write_atomically, write_json
from experiments.common.machine import device, versions
from experiments.common.options import AT_LEAST_ONE, NONE_OR_ONE, check
from experiments.common.tables import markdown
from experiments.models.network import Batch
from experiments.training.measure import angle_to, fixed_subset, make_trace, subset_gradient
from experiments.training.record import about, cell, named, read_record
from experiments.training.spectra import Spectrum, draw, spectrum
from experiments.training.trained import TrainedRun, load


@dataclass(frozen=True, kw_only=True)
class AnalyseConfig:
    """Measure the curvature of trained networks."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs. One that is not finished is measured at its last checkpoint."""
    images: int | None = None
    """Training images of the loss, in whole batches of up to 256, or all where there are fewer
    (None: those on which the run itself measured)."""
    k: int = 10
    """Number of eigenvalues."""
    num_matvecs: int = 20
    """Hessian-vector products for the eigenvalues, and again for each probe of the density."""
    num_probes: int = 3
    """Random vectors over which the density is averaged."""
    trace_probes: int = 30
    """Random vectors that estimate the trace, a product each."""
    data_dir: Path | None = None
    """Directory of the data set (None: where the run read it)."""
    out: Path = Path("runs/analysis")
    """Folder of the picture and the numbers."""


class Analysis(NamedTuple):
    """What is measured of one network.

    Attributes:
        images: Of the loss.
        spectrum: Eigenvalues and density.
        trace: Of the Hessian.
        trace_error: Its standard error.
        angle: Degrees in [0, 90] between SAM's second gradient and the top eigenvector.
        seconds: Wall time, compilation included.
    """

    images: int
    spectrum: Spectrum
    trace: float
    trace_error: float
    angle: float
    seconds: float


def measure(run: TrainedRun, config: AnalyseConfig) -> Analysis:
    """Measure one network.

    Args:
        run: The network and its data.
        config: The options.

    Returns:
        The measurement.
    """
    began = time.perf_counter()
    data = Batch(jnp.asarray(run.data.train_images), jnp.asarray(run.data.train_labels))
    subset = fixed_subset(data, config.images or run.config.curvature_samples)
    predict = run.network.predict

    @jax.jit
    def spectrum_and_angle(params: Any, batch_stats: Any, subset: Batch) -> Any:
        grad_fn = subset_gradient(predict, batch_stats, subset)
        found, vectors = spectrum(
            grad_fn,
            params,
            k=config.k,
            num_matvecs=config.num_matvecs,
            num_probes=config.num_probes,
        )
        first = jax.tree.map(lambda leaf: leaf[0], vectors)
        return found, angle_to(first, grad_fn, params)

    at = run.params, run.batch_stats, subset
    found, angle = spectrum_and_angle(*at)
    trace = make_trace(predict, config.trace_probes)(*at)
    return Analysis(
        images=subset.labels.size,
        spectrum=found,
        trace=float(trace.value),
        trace_error=float(trace.standard_error),
        angle=float(angle),
        seconds=time.perf_counter() - began,
    )


def line(about: dict[str, Value], found: Analysis) -> dict[str, Value]:
    """A network's line of the tables: what it is, and one number of each measurement."""
    return {
        **about,
        "images": found.images,
        "lambda_max": float(found.spectrum.values[0]),
        "residual": float(found.spectrum.residuals[0]),
        "trace": found.trace,
        "trace_error": found.trace_error,
        "angle": found.angle,
    }


def write(config: AnalyseConfig, found: dict[str, Analysis], lines: list[dict[str, Value]]) -> str:
    """Write picture, tables and numbers.

    Args:
        config: The options.
        found: The measurements, by the names of the runs.
        lines: Their lines.

    Returns:
        The table in Markdown.
    """
    out = config.out
    table = markdown(list(lines[0]), ([cell(value) for value in line.values()] for line in lines))
    figure = new_figure(
        11,
        4.8,
        "Hessian spectrum of trained networks",
        f"Hessian on {', '.join(sorted({str(a.images) for a in found.values()}))} training images",
    )
    spectra = [(i, name, analysis.spectrum) for i, (name, analysis) in enumerate(found.items())]
    top, density = figure.subplots(1, 2)
    draw(top, density, spectra, config.num_probes)
    write_figure(figure, out / "analysis.png")
    write_table(out / "analysis.csv", list(lines[0]), ([*line.values()] for line in lines))
    write_table(
        out / "analysis_eigenvalues.csv",
        ("run", "index", "eigenvalue", "residual"),
        (
            (name, i, float(value), float(residual))
            for _, name, s in spectra
            for i, (value, residual) in enumerate(zip(s.values, s.residuals, strict=True), 1)
        ),
    )
    write_table(
        out / "analysis_density.csv",
        ("run", "eigenvalue", "density"),
        (
            (name, float(value), float(density))
            for _, name, s in spectra
            for value, density in zip(s.grid, s.density, strict=True)
        ),
    )
    record = {
        "num_matvecs": config.num_matvecs,
        "num_probes": config.num_probes,
        "trace_probes": config.trace_probes,
        "runs": [
            line | {"eigenvalues": list(map(float, a.spectrum.values)), "seconds": a.seconds}
            for line, a in zip(lines, found.values(), strict=True)
        ],
        "device": device(),
        "versions": versions(),
    }
    write_json(out / "analysis.json", finite(record))
    text = f"# Curvature of trained networks\n\n{table}\n\n![Spectra](analysis.png)\n"
    write_atomically(out / "analysis.md", text.encode())
    return table


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        config = command_line(AnalyseConfig, "experiments.analyse", __doc__)
        for name in ("k", "num_matvecs", "num_probes"):
            check(name, getattr(config, name), AT_LEAST_ONE)
        most = config.num_matvecs
        check("k", config.k, (lambda k: k <= most, f"at most --num-matvecs {most}"))
        check("images", config.images, NONE_OR_ONE)
        check("trace_probes", config.trace_probes, (lambda n: n >= 2, "at least 2"))
        check_folder(config.out)
        names = named(config.runs)
        runs = {name: load(out, data_dir=config.data_dir) for name, out in names.items()}
        found, lines = {}, []
        for name, run in runs.items():
            found[name] = measure(run, config)
            record = read_record(run.out)._replace(epochs=run.epochs)
            lines.append(line(about(name, record), found[name]))
            print(f"{name}: {found[name].seconds:.0f} s", flush=True)
        print(write(config, found, lines))


if __name__ == "__main__":
    main()
