"""Measure time, memory and compilation of a step of every method, relative to SAM in optax.

python -m experiments.speed --batch-size 128 --rounds 8 --compilations 2       # six-layer CNN
python -m experiments.speed --model resnet18 --batch-size 32 --rounds 5 --compilations 2
python -m experiments.speed --model transformer --batch-size 32 --rounds 7 --compilations 2
python -m experiments.speed --model transformer_large --batch-size 1 --steps sam "xsam, oja"

They take 7, 15, 8 and 2 minutes on two cores; the last one has 110 million parameters in bfloat16.

All compiled steps run in one process, one after the other in each round, so that a drift of the
machine's speed meets all of them; on an accelerator, which queues them, each many times in a row.
Two ratios are given: that of the fastest runs, and the median over rounds of the ratio within a
round, with its quartiles. Nothing else may run on the machine meanwhile. Expected: docs/cost.md and
results/speed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common.errors import UserError, command_line, exit_on_user_error
from experiments.common.files import make_folder, write_json
from experiments.common.machine import device, peak_device_mib, peak_mib, versions
from experiments.common.options import AT_LEAST_ONE, NONE_OR_ONE, check, command
from experiments.speed.compilation import Compiled, compile_step, seconds_of
from experiments.speed.steps import (
    BASELINE,
    PARTS,
    QUARTER,
    Step,
    all_steps,
    epoch,
    only,
)
from experiments.speed.table import Row, table
from experiments.speed.workloads import WorkloadName, workload

# Of a step on an accelerator: as many calls as optax's SAM takes in this time.
_SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class SpeedConfig:
    """Options of the measurement."""

    model: WorkloadName = "simple_cnn"
    """Network: on images of 28x28 pixels, or transformer (3.4 million parameters, sequences of 64
    tokens) or transformer_large (110 million in bfloat16, sequences of 128, rematerialised)."""
    batch_size: int | None = None
    """Examples per step (None: the largest power of two up to 128 with which the compiler plans no
    more than --memory-mib for SAM's step)."""
    memory_mib: int = 512
    """See --batch-size."""
    rounds: int = 15
    """Rounds; every step is measured once in each."""
    compilations: int = 3
    """How often every step is compiled; the median time counts."""
    epoch_steps: int = 8
    """Steps of the epoch that is run as one scan and as a loop; 0 leaves it out."""
    steps: tuple[str, ...] | None = None
    """Names of the steps to be measured beside SAM in optax (None: all)."""
    out: Path = Path("runs/speed")
    """Folder of the measurement, a JSON file named after platform, model and batch size."""


def fitting_batch(step: Step, params: Any, batch: Callable[[int], Any], mib: int) -> int:
    """The largest power of two up to 128 whose step is planned to need no more than ``mib``."""
    size = 128
    while size > 1:
        _, compiled = compile_step(step, params, batch(size))
        if compiled.temporary_mib + compiled.argument_mib <= mib:
            break
        size //= 2
    return size


def measure(config: SpeedConfig) -> tuple[int, list[Row]]:
    """Compile and time all steps.

    Returns:
        The batch size and a row for each step.

    Raises:
        UserError: A step has no such name, or cannot be taken with this batch, or the folder
            cannot be written.
    """
    work = workload(config.model)
    steps = all_steps(work)
    if config.steps is not None:
        steps = only(steps, config.steps)
    size = config.batch_size or fitting_batch(
        steps[BASELINE], work.params, work.batch, config.memory_mib
    )
    if size % 4:
        if asked := {QUARTER, PARTS} & {*(config.steps or ())}:
            raise UserError(f"--batch-size must be a multiple of 4 for {', '.join(sorted(asked))}.")
        steps = {name: step for name, step in steps.items() if name not in (QUARTER, PARTS)}
    make_folder(config.out)
    batch = work.batch(size)
    calls: dict[str, list[Callable[[], Any]]] = {name: [] for name in steps}
    compilations: dict[str, list[Compiled]] = {name: [] for name in steps}
    for _ in range(config.compilations):
        for name, step in steps.items():
            program, found = compile_step(step, work.params, batch)
            compilations[name].append(found)
            calls[name].append(partial(program, work.params, step.state, batch))
    # They differ in their time only.
    middle = (config.compilations - 1) // 2
    compiled = {name: sorted(found)[middle] for name, found in compilations.items()}
    if config.epoch_steps and "sam" in steps:
        both = epoch(steps["sam"], config.epoch_steps)
        for how, step in zip(("a Python loop", "one scan"), both, strict=True):
            name = f"sam, {config.epoch_steps} steps in {how}"
            calls[name] = [partial(step.function, work.params, step.state, batch)]

    for compiled_calls in calls.values():
        for call in compiled_calls:
            jax.block_until_ready(call())
    repeats = 1
    # A CPU would take several at the same time.
    if jax.default_backend() != "cpu":
        repeats = max(1, round(_SAMPLE_SECONDS / seconds_of(calls[BASELINE][0], 10)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(config.rounds):
        for name, compiled_calls in calls.items():
            # Two compilations of one step differ in their time: every round has another one.
            times[name].append(seconds_of(compiled_calls[i % len(compiled_calls)], repeats))

    rows = []
    for name, taken in times.items():
        ratios = np.divide(taken, times[BASELINE])
        low, ratio, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
        fastest = min(taken) / min(times[BASELINE])
        median = float(np.median(taken))
        rows.append(Row(name, fastest, ratio, (low, high), median, compiled.get(name)))
    return size, rows


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        config = command_line(SpeedConfig, "experiments.speed", __doc__)
        check("batch_size", config.batch_size, NONE_OR_ONE)
        for name in ("memory_mib", "rounds", "compilations"):
            check(name, getattr(config, name), AT_LEAST_ONE)
        check("epoch_steps", config.epoch_steps, (lambda x: x >= 0, "at least 0"))
        size, rows = measure(config)
        name = f"{jax.default_backend()}-{config.model}-{size}.json"
        record = {
            "command": command(
                "experiments.speed",
                model=config.model,
                batch_size=size,
                rounds=config.rounds,
                epoch_steps=config.epoch_steps,
                compilations=config.compilations,
                steps=config.steps or None,
            ),
            "device": device(),
            "rounds": config.rounds,
            "peak_resident_mib": peak_mib(),
            "peak_device_mib": peak_device_mib(),
            "versions": versions(),
            "rows": [row.to_json() for row in rows],
        }
        write_json(config.out / name, record)
        print(table(rows))
        print(f"written to {config.out / name}")


if __name__ == "__main__":
    main()
