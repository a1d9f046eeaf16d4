"""What a benchmark would run, and how long it would take by steps that are timed now."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import jax

from experiments.benchmark.protocol import (
    Cell,
    Line,
    Planned,
    Protocol,
    cells,
    final_runs,
    tuning_runs,
)
from experiments.config import resolve
from experiments.program import program_of, start
from experiments.step import empty_metrics

_STEPS = 4


class Cost(NamedTuple):
    """Measured seconds: to build and compile, and for a step, refreshes included."""

    compile: float
    step: float
    steps: int  # of a run


def estimate(protocol: Protocol, lines: list[Line], jobs: int) -> str:
    """List the runs that are missing and their time.

    The evaluation and the curvature are not in it.

    Args:
        protocol: The benchmark.
        lines: What is finished.
        jobs: Runs at a time.

    Returns:
        A table and the sum.
    """
    finished = {line["key"] for line in lines}
    untuned = replace(protocol, tuning=None)
    rows, total = [], 0.0
    for cell in cells(protocol):
        plan = tuning_runs(protocol, cell)
        # Until it is tuned, the final runs are not known but for their number.
        plan += final_runs(protocol, cell, lines) or final_runs(untuned, cell, lines)
        left = [run for run in plan if run.key not in finished]
        if left:
            cost = measure(left[0])
            seconds = cost.compile + cost.step * cost.steps * len(left)
            total += seconds
            rows.append(_row(cell, left, cost, seconds))
    if not rows:
        return "Nothing is left to run."
    head = "data set       model          method           tuning  final   s/step   minutes"
    return "\n".join(
        [head, *rows, f"about {total / 60 / jobs:.0f} minutes with {jobs} runs at a time"]
    )


def measure(run: Planned) -> Cost:
    """Compile the program of a run, time a few steps and scale the refreshes to their frequency."""
    started = time.perf_counter()
    config = resolve(run.config)
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
    compiled = time.perf_counter() - started
    first = take(1)
    last = min(1 + _STEPS, program.steps)
    usual = take(last) / (last - 1) if last > 1 else first
    refresh = max(first - usual, 0.0) / config.refresh_every
    return Cost(compiled, usual + refresh, config.epochs * program.steps)


def _row(cell: Cell, left: Iterable[Planned], cost: Cost, seconds: float) -> str:
    stages = Counter(run.stage for run in left)
    return (
        f"{cell.dataset:14} {cell.model:14} {cell.method:16} {stages['tuning']:6} "
        f"{stages['final']:6} {cost.step:8.4f} {seconds / 60:9.1f}"
    )
