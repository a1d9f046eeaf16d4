"""Compiling steps for a device that need not be there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Sharding, SingleDeviceSharding

from experiments.files import make_folder, write_json
from experiments.options import positive
from experiments.results import versions
from experiments.speed.steps import (
    BASELINE,
    CHOSEN_BETWEEN,
    REFRESH,
    Step,
    all_steps,
    as_option,
    only,
)
from experiments.speed.workloads import WorkloadName, workload

STEPS = ("sgd", BASELINE, "sam", "xsam, oja", "xsam, subspace", REFRESH, CHOSEN_BETWEEN)


@dataclass(frozen=True, kw_only=True)
class AbsentConfig:
    """Options of the compilations."""

    model: WorkloadName = "simple_cnn"
    """Network, see experiments.speed."""
    batch_size: int = 256
    """Examples per step."""
    steps: tuple[str, ...] = STEPS
    """Names of the steps beside SAM in optax, see experiments.speed."""
    out: Path
    """Folder of the result, a JSON file named after what was compiled."""


def shapes_on(sharding: Sharding, tree: Any) -> Any:
    """Arrays as they would lie on devices that need not be there."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def steps_for(config: AbsentConfig, device: jax.Device) -> tuple[dict[str, Step], Any, Any]:
    """What is to be compiled for a device.

    Returns:
        The steps by name, the parameters and the batch, all without values.

    Raises:
        UserError: A step has no such name, or the folder cannot be written.
    """
    positive("batch-size", config.batch_size)
    work = workload(config.model)
    # Without those that are compiled by an option of XLA:CPU.
    available = {name: s for name, s in all_steps(work).items() if s.compiler_options is None}
    chosen = only(available, config.steps)
    make_folder(config.out)
    there = SingleDeviceSharding(device)
    steps = {name: s._replace(state=shapes_on(there, s.state)) for name, s in chosen.items()}
    return steps, *shapes_on(there, (work.params, work.batch(config.batch_size)))


def save(
    config: AbsentConfig,
    program: str,
    steps: dict[str, dict[str, float]],
    *,
    options: str = "",
    prefix: str = "",
    compiler: dict[str, str] | None = None,
) -> Path:
    """Write what was found of each step.

    Args:
        config: Options of the compilations.
        program: Name of the module that was run.
        steps: What was found.
        options: Those of the program's own on its command line.
        prefix: What the file's name begins with, before model and batch size.
        compiler: The compiler's version by its package, beside those of JAX.

    Returns:
        The file.
    """
    chosen = "" if config.steps == STEPS else as_option(config.steps)
    record = {
        "command": f"python -m {program} --model {config.model} --batch-size {config.batch_size}"
        f"{options}{chosen}",
        "versions": versions() | (compiler or {}),
        "steps": steps,
    }
    file = config.out / f"{prefix}{config.model}-{config.batch_size}.json"
    write_json(file, record)
    return file
