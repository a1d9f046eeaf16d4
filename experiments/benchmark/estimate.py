"""What a benchmark would run, and how long it would take: a few steps are timed."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from experiments.benchmark.protocol import Protocol, cells, final_runs, tuning_runs
from experiments.models.network import Batch
from experiments.training.chunk import empty_metrics
from experiments.training.config import ResolvedConfig
from experiments.training.methods import gradients_per_step
from experiments.training.program import program_of, start
from experiments.training.resolve import resolve
from experiments.workers.planned import Cell, Planned
from experiments.workers.store import Line

_STEPS = 4
# What a worker does before its first run.
_IMPORT = (sys.executable, "-c", "import experiments.workers.worker")


class Cost(NamedTuple):
    """Measured seconds of the parts of a run.

    Attributes:
        start: To build and compile, once for all runs of a worker.
        step: Of a step, refreshes included.
        steps: Number of steps of a run.
        images: Number of test images.
        image: Of the evaluation, per image.
        curvature: Of one measurement of the largest eigenvalue, and of the trace.
    """

    start: float
    step: float
    steps: int
    images: int
    image: float
    curvature: tuple[float, float]

    def of_run(self, config: ResolvedConfig) -> float:
        """Seconds of a run, without its start."""
        evaluated = config.epochs * (config.validation_images or self.images) * self.image
        every = config.curvature_every
        measured = -(-config.epochs // every) if every else 0
        eigenvalue, trace = self.curvature
        return (
            self.steps * self.step
            + evaluated
            + measured * eigenvalue
            + (trace if config.trace_probes else 0.0)
        )


def estimate(protocol: Protocol, lines: list[Line], jobs: int) -> str:
    """List the missing runs and their time.

    Args:
        protocol: The benchmark.
        lines: What is finished.
        jobs: Runs at a time.

    Returns:
        A table and the sum.
    """
    finished = {line["key"] for line in lines}
    untuned = replace(protocol, tuning=None)
    worker = _timed(lambda: subprocess.run(_IMPORT, check=True))
    rows, total = [], 0.0
    for cell in cells(protocol):
        plan = tuning_runs(protocol, cell)
        # Until it is tuned, the final runs are not known but for their number.
        plan += final_runs(protocol, cell, lines) or final_runs(untuned, cell, lines)
        left = [run for run in plan if run.key not in finished]
        if left:
            # The last is a final one, which has all that is measured.
            cost = measure(left[-1])
            starts = len({run.stage for run in left})
            seconds = starts * (worker + cost.start) + sum(
                cost.of_run(resolve(run.config)) for run in left
            )
            total += seconds
            rows.append(_row(cell, left, cost, seconds))
    if not rows:
        return "Nothing is left to run."
    head = "data set       model          method           tuning  final   s/step   minutes"
    return "\n".join(
        [head, *rows, f"about {total / 60 / jobs:.0f} minutes with {jobs} runs at a time"]
    )


def measure(run: Planned) -> Cost:
    """Compile the programs of a run and time a few steps of each."""
    planned = resolve(run.config)
    # The first steps of what is X-SAM in some steps only are not like the mean of all.
    config = replace(planned, late_start=0.0, sparse_every=1)
    part = gradients_per_step(planned.to_json()) / gradients_per_step(config.to_json())
    started = time.perf_counter()
    program = program_of(config)
    run_chunk, state = start(config, program)
    metrics = empty_metrics(program.steps)

    def take(until: int) -> float:
        nonlocal state, metrics
        begin = time.perf_counter()
        state, metrics = jax.block_until_ready(run_chunk(state, metrics, program.train_data, until))
        return time.perf_counter() - begin

    # Another dispatch of the compiled program: with its first step comes its first refresh.
    take(0)
    arguments = state.params, state.batch_stats
    evaluate, top, trace = (
        jax.jit(function).lower(*arguments, data).compile() if wanted else None
        for function, data, wanted in (
            (program.evaluate, program.test_data, True),
            (program.measure, program.subset, config.curvature_every > 0),
            (program.trace, program.subset, config.trace_probes > 0),
        )
    )
    compiled = time.perf_counter() - started

    first = take(1)
    last = min(1 + _STEPS, program.steps)
    usual = take(last) / (last - 1) if last > 1 else first
    refresh = max(first - usual, 0.0) / config.refresh_every

    def timed(function: Any, data: Batch) -> float:
        arguments = state.params, state.batch_stats, data
        return (
            0.0 if function is None else _timed(lambda: jax.block_until_ready(function(*arguments)))
        )

    images = len(program.data.test_labels)
    return Cost(
        start=compiled,
        step=part * usual + refresh,
        steps=config.epochs * program.steps,
        images=images,
        image=timed(evaluate, program.test_data) / images,
        curvature=(timed(top, program.subset), timed(trace, program.subset)),
    )


def _timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _row(cell: Cell, left: Iterable[Planned], cost: Cost, seconds: float) -> str:
    stages = Counter(run.stage for run in left)
    return (
        f"{cell.dataset:14} {cell.model:14} {cell.method:16} {stages['tuning']:6} "
        f"{stages['final']:6} {cost.step:8.4f} {seconds / 60:9.1f}"
    )
