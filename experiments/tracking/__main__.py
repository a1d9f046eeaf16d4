"""Measure the quality of every tracker of the dominant eigenvector, and its cost.

python -m experiments.tracking                            # 105 minutes of CPU time
python -m experiments.tracking --settings mlp --seeds 1    # a minute
python -m experiments.tracking --trackers p5 oja_0.3       # these two alone

SAM trains a network; all trackers watch the same steps and change none. From step 100 on the vector
of each is compared with the eigenvector v_1 of the largest eigenvalue lambda_1 of the training loss
(Lanczos), on 4,096 images of Fashion-MNIST or 1,434 of the 1,437 digits: quality is v'Hv /
lambda_1, cosine |<v, v_1>|. With BatchNorm the loss is that with the batch's statistics, as a
training step sees it; the table also has the quality by the Hessian of the loss with the running
ones, from which X-SAM's authors take their products. The cost is counted in gradients of a
mini-batch per step; SAM itself costs 2. Expected: results/tracking/README.md. A stopped measurement
goes on where it was, run by run.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.common.errors import UserError, command_line, exit_on_user_error
from experiments.common.files import damaged, make_folder, read_json, write_json
from experiments.common.machine import device, versions
from experiments.common.options import AT_LEAST_ONE, among, check, distinct, seeds
from experiments.tracking.candidates import all_watchers
from experiments.tracking.measure import Programs, Sizes, compile_programs, watch
from experiments.tracking.problems import SETTINGS, Problem, SettingName, make_problem
from experiments.tracking.report import write_report
from experiments.tracking.watcher import Watcher
from experiments.training.batches import check_batch_size


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Options of the measurement."""

    settings: tuple[SettingName, ...] = ("mlp", "cnn", "cnn_bn")
    """Network and data."""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Seeds of the initial parameters and the order of the batches."""
    trackers: tuple[str, ...] | None = None
    """Names of the trackers, as in the table of results/tracking (None: all)."""
    steps: int = 400
    """Steps of the training."""
    batch_size: int = 256
    """Images per step."""
    burn_in: int = 100
    """Steps before the first measurement."""
    every: int = 50
    """Steps between measurements."""
    sample_size: int = 4096
    """Training images of the loss whose Hessian is measured, at most all, in equal batches."""
    num_matvecs: int = 20
    """Dimension of the Krylov space of v_1."""
    data_dir: Path | None = None
    """Directory of the data sets, see experiments.train."""
    out: Path = Path("runs/tracking")
    """Folder of the runs, the table and the figure."""


def measure(config: TrackingConfig) -> None:
    """Do the runs that are missing, and write the report.

    Raises:
        UserError: An option is out of range, the data are missing, or the folder holds runs of
            other options.
    """
    distinct("settings", config.settings)
    seeds("seeds", config.seeds)
    for name in ("steps", "batch_size", "every", "sample_size"):
        check(name, getattr(config, name), AT_LEAST_ONE)
    check("num_matvecs", config.num_matvecs, (lambda x: x >= 2, "at least 2, for two eigenvalues"))
    check("burn_in", config.burn_in, (lambda x: 0 <= x < config.steps, f"in [0, {config.steps})"))
    watchers = chosen(config.trackers)
    sizes = Sizes(*(getattr(config, name) for name in Sizes._fields))
    make_folder(config.out / "runs")
    _refuse_other_options(config.out / "runs", sizes)
    ready: dict[SettingName, tuple[Problem, Mapping[str, Watcher], Programs]] = {}
    # Seed by seed, so that a stopped measurement has something of every setting.
    for seed in config.seeds:
        for name in config.settings:
            file = config.out / "runs" / f"{name}-{seed}.json"
            if file.exists():
                continue
            if name not in ready:
                problem = make_problem(name, config.data_dir)
                check_batch_size(config.batch_size, len(problem.data.labels))
                used = of_problem(watchers, problem)
                ready[name] = problem, used, compile_programs(problem, used, sizes)
            started = time.process_time()
            problem, used, programs = ready[name]
            run = watch(problem, programs, used, sizes, seed)
            seconds = time.process_time() - started
            record = {"setting": name, "seed": seed, "options": sizes._asdict(), **run}
            write_json(
                file,
                record | {"cpu_seconds": seconds, "device": device(), "versions": versions()},
            )
            print(f"{SETTINGS[name].title}, seed {seed}: {seconds:.0f} s of CPU time", flush=True)
    write_report(config.out, watchers)


def chosen(names: tuple[str, ...] | None) -> Mapping[str, Watcher]:
    """Take the trackers of these names, or all.

    Raises:
        UserError: There is no such tracker, or no name.
    """
    watchers = all_watchers()
    if names is None:
        return watchers
    among("trackers", names, watchers)
    return {name: watchers[name] for name in names}


def of_problem(watchers: Mapping[str, Watcher], problem: Problem) -> Mapping[str, Watcher]:
    """Leave out trackers that equal another one on a network without an evaluation mode."""
    modes = problem.evaluation is not None
    return {name: watcher for name, watcher in watchers.items() if modes or not watcher.two_modes}


_FIELDS = {"setting", "seed", "options", "quality", "cosine"}  # what the report reads


def _refuse_other_options(folder: Path, sizes: Sizes) -> None:
    # The report averages all that are there.
    for file in sorted(folder.glob("*.json")):
        found = read_json(file)
        if not isinstance(found, dict) or not found.keys() >= _FIELDS:
            raise damaged(file)
        if found["options"] != sizes._asdict():
            raise UserError(f"{file} is a run of other options: name another folder with --out.")


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        measure(command_line(TrackingConfig, "experiments.tracking", __doc__))


if __name__ == "__main__":
    main()
