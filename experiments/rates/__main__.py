"""Measure which learning rate suits a method, for each schedule and base optimizer.

python -m experiments.rates                                # three tasks: 90 minutes of CPU time
python -m experiments.rates --tasks digits                 # 8 of them
python -m experiments.rates --tasks resnet8 --seeds 0 1    # BatchNorm: two hours

A direction of norm one, as X-SAM's is, does not get smaller where the loss is flat: it cannot
settle unless the learning rate falls. So every method is trained at every rate of a grid, with
three schedules and two base optimizers, and judged on images held out of the training set. The
radius is 0.05 and alpha 0.2 for all, weight decay 5e-5. A stopped measurement goes on where it was.
"""

import signal
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import track

from experiments.common.errors import command_line, exit_on_user_error
from experiments.common.files import make_folder
from experiments.common.machine import cores
from experiments.common.options import AT_LEAST_ONE, check, distinct, seeds
from experiments.data.sources import load
from experiments.rates.plan import RATES, TASKS, RatesConfig, curves, runs_of
from experiments.rates.report import write_report
from experiments.workers import store
from experiments.workers.planned import Planned, keep
from experiments.workers.runner import execute


def measure(config: RatesConfig, jobs: int) -> list[str]:
    """Do the runs that are missing, and write the tables and the figure.

    Returns:
        What failed, a sentence each.

    Raises:
        UserError: The folder cannot be written, is in use, or holds something else.
    """
    make_folder(config.out)
    failures: list[str] = []
    with store.locked(config.out):
        store.mend(config.out)
        lines = store.read(config.out)
        known = {line["key"] for line in lines}
        plan = [
            run
            for curve in curves(config)
            for rate in RATES[curve.optimizer]
            for run in runs_of(config, curve, rate)
            if run.key not in known
        ]
        revision = store.revision()
        left = iter(track(plan, "runs", console=Console(stderr=True)))

        def on_run(run: Planned, said: Mapping[str, Any]) -> None:
            next(left, None)
            if "error" in said:
                failures.append(f"{run.name}: {said['error']}")
            else:
                lines.append(keep(config.out, run, said, revision))

        execute(plan, jobs, on_run)
        next(left, None)
        write_report(config, lines)
    return failures


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        config = command_line(RatesConfig, "experiments.rates", __doc__)
        for name in ("tasks", "methods", "optimizers", "schedules"):
            distinct(name, getattr(config, name))
        seeds("seeds", config.seeds)
        jobs = cores() if config.jobs is None else config.jobs
        check("jobs", jobs, AT_LEAST_ONE)
        for task in config.tasks:
            load(TASKS[task]["dataset"], config.data_dir)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        failures = measure(config, jobs)
        print((config.out / "rates.md").read_text())
        for failure in failures:
            print(f"failed: {failure}", file=sys.stderr)
        if failures:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
