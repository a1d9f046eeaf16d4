"""The paper's Table 1 again, with controls, on small tasks with equal tuning for every method.

python -m experiments.benchmark digits           # minutes on two cores
python -m experiments.benchmark noisy            # digits with wrong labels, minutes
python -m experiments.benchmark cheap            # X-SAM for less than SAM's price, minutes
python -m experiments.benchmark fashion-small    # a part of Fashion-MNIST, on two cores
python -m experiments.benchmark fashion          # all of Fashion-MNIST, on a GPU
python -m experiments.benchmark cifar            # AlexNet on CIFAR, a day on two cores
python -m experiments.benchmark paper            # section 6.1, on a GPU

Each preset's file in experiments/benchmark/presets says what it does, how long it takes and what
to expect. A benchmark that was stopped goes on where it was. The report is written at the end, and
by `python -m experiments.benchmark.report DIR` at any time.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.benchmark.estimate import estimate
from experiments.benchmark.presets import PRESETS
from experiments.benchmark.protocol import Protocol, cells, final_runs, tuning_runs
from experiments.benchmark.report.write import write_report
from experiments.common.errors import UserError, command_line, exit_on_user_error
from experiments.common.files import make_folder
from experiments.common.machine import cores
from experiments.common.many import bars_shown
from experiments.common.options import AT_LEAST_ONE, check, distinct, seeds
from experiments.data.dataset import DatasetName
from experiments.data.sources import load
from experiments.models import ModelName
from experiments.training.config import Method
from experiments.workers import store
from experiments.workers.planned import Planned, cell_of, keep
from experiments.workers.runner import execute
from experiments.workers.store import Line, but_for_the_seed


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Options of a benchmark. Those left out are the preset's."""

    preset: Annotated[
        Literal[
            "digits",
            "noisy",
            "cheap",
            "fashion-small",
            "fashion",
            "cifar",
            "cifar-tuned",
            "paper",
        ],
        tyro.conf.Positional,
    ]
    """The protocol."""
    methods: tuple[Method, ...] | None = None
    """Methods (None: the preset's)."""
    models: tuple[ModelName, ...] | None = None
    """Networks (None: the preset's)."""
    datasets: tuple[DatasetName, ...] | None = None
    """Data sets (None: the preset's)."""
    seeds: tuple[int, ...] | None = None
    """Seeds of the runs that count (None: the preset's)."""
    tuning_seeds: tuple[int, ...] | None = None
    """Seeds of every trial, by the mean over which it is judged; other ones than --seeds (None: the
    preset's)."""
    jobs: int | None = None
    """Runs at a time (None: one a core, one on a GPU); fewer where the memory does not allow it."""
    data_dir: Path | None = None
    """Directory of the data sets, see experiments.train."""
    image_size: int | None = None
    """folder: pixels of each side, see experiments.train."""
    out: Path | None = None
    """Folder of the results (None: runs/benchmark/PRESET)."""
    dry_run: bool = False
    """Measure a few steps of every method, list what would run and how long, and stop."""


def protocol_of(config: BenchmarkConfig) -> Protocol:
    """Change the preset as the options say.

    Raises:
        UserError: A list is empty or names something twice, nothing is tuned, or hyperparameters
            would be chosen on seeds that count.
    """
    protocol = PRESETS[config.preset]
    changes: dict[str, tuple[Any, ...]] = {}
    for name in ("methods", "models", "datasets", "seeds"):
        values = getattr(config, name)
        if values is not None:
            distinct(name, values)
            changes[name] = values
    if config.seeds is not None:
        seeds("seeds", config.seeds)
    tuning = protocol.tuning
    if config.tuning_seeds is not None:
        seeds("tuning-seeds", config.tuning_seeds)
        if tuning is None:
            raise UserError(f"--tuning-seeds is not for {config.preset}, which tunes nothing.")
        tuning = replace(tuning, seeds=config.tuning_seeds)
    if tuning is not None and (both := {*tuning.seeds} & {*changes.get("seeds", protocol.seeds)}):
        raise UserError(
            f"--seeds and --tuning-seeds must have no seed in common, not {sorted(both)[0]}: the "
            "hyperparameters would be chosen on runs that count."
        )
    places = {"data_dir": config.data_dir, "image_size": config.image_size}
    settings = {**protocol.settings, **places}
    return replace(protocol, settings=settings, tuning=tuning, **changes)  # type: ignore[arg-type]


def run_benchmark(protocol: Protocol, out: Path, jobs: int) -> list[str]:
    """Do the runs of a benchmark that are missing, and write its report.

    Args:
        protocol: The benchmark.
        out: Folder of its results.
        jobs: Runs at a time.

    Returns:
        What failed, a sentence each.

    Raises:
        UserError: The folder cannot be written, is in use, or holds something else.
    """
    make_folder(out)
    with store.locked(out):
        lines = store.read(out)
        failures = _run_missing(protocol, out, jobs, lines)
        if any(line["stage"] == "final" for line in lines):
            write_report(out)
    return failures


def _run_missing(protocol: Protocol, out: Path, jobs: int, lines: list[Line]) -> list[str]:
    """Do the missing runs, add their lines, and return what failed, a sentence each."""
    store.mend(out)
    failures: list[str] = []
    revision = store.revision()

    def on_run(run: Planned, said: Mapping[str, Any]) -> None:
        if "error" in said:
            failures.append(f"{run.name}: {said['error']}")
            bar.console.print(f"failed: {failures[-1]}", markup=False, soft_wrap=True)
        else:
            lines.append(keep(out, run, said, revision))
        bar.advance(task)

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    ) as bar:
        try:
            for stage in ("tuning", "final"):
                plan = missing(protocol, stage, lines, out)
                task = bar.add_task(stage, total=len(plan))
                execute(plan, jobs, on_run)
        except KeyboardInterrupt:
            bar.console.print(f"stopped; the same command goes on, {len(lines)} runs are kept")
            raise
    return failures


def missing(protocol: Protocol, stage: str, lines: list[Line], out: Path) -> list[Planned]:
    """List the runs of a stage that are not finished.

    Raises:
        UserError: Some of those that are differ from the plan in more than the seed, so that no
            table should have both.
    """
    planned = [
        run
        for cell in cells(protocol)
        for run in (
            tuning_runs(protocol, cell) if stage == "tuning" else final_runs(protocol, cell, lines)
        )
    ]
    known = {but_for_the_seed(run.fields) for run in planned}
    of_plan = {run.cell for run in planned}
    seeds_of_plan = {run.config.seed for run in planned}
    for line in lines:
        here = line["stage"] == stage and cell_of(line) in of_plan
        # More seeds that count make a better mean; trials have those that judge them.
        other_seed = stage == "tuning" and line["config"]["seed"] not in seeds_of_plan
        if here and (other_seed or but_for_the_seed(line["config"]) not in known):
            dataset, model, method = cell_of(line)
            raise UserError(
                f"--out {out} holds {stage} runs of {method}, {model} on {dataset}, with other "
                "options, hyperparameters or tuning seeds than this benchmark's: name another "
                "folder."
            )
    finished = {line["key"] for line in lines}
    return [run for run in planned if run.key not in finished]


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        config = command_line(BenchmarkConfig, "experiments.benchmark", __doc__)
        protocol = protocol_of(config)
        if config.jobs is not None:
            check("jobs", config.jobs, AT_LEAST_ONE)
        # Each process would take three quarters of a GPU, this one too, which only asks for it.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        on_cpu = jax.default_backend() == "cpu"
        jobs = config.jobs or (cores() if on_cpu else 1)
        out = config.out or Path("runs/benchmark", config.preset)
        if config.dry_run:
            print(estimate(protocol, store.read(out), jobs))
            return
        with bars_shown():
            for dataset in protocol.datasets:
                # What is missing is said once, not by every run.
                load(dataset, config.data_dir, config.image_size)
        # As Ctrl-C: workers left behind would go on.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        started = time.perf_counter()
        failures = run_benchmark(protocol, out, jobs)
        minutes = (time.perf_counter() - started) / 60
        if (out / "report.html").exists():
            print(f"{minutes:.1f} minutes, report in {out / 'report.html'}")
        for failure in failures:
            print(f"failed: {failure}", file=sys.stderr)
        if failures:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
