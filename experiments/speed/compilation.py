"""Compile steps, also for a device that is not there, and time them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Sharding, SingleDeviceSharding

from experiments.common.files import make_folder, write_json
from experiments.common.machine import versions
from experiments.common.options import AT_LEAST_ONE, check, command
from experiments.speed.steps import (
    BASELINE,
    CHOSEN_BETWEEN,
    REFRESH,
    Step,
    all_steps,
    only,
)
from experiments.speed.workloads import WorkloadName, workload


class Compiled(NamedTuple):
    """What the compiler says of a step.

    Attributes:
        compile_seconds: Time of tracing, lowering and compilation, the median of several.
        temporary_mib: Memory of intermediate values, as the compiler plans it.
        argument_mib: Memory of parameters, optimizer state and batch.
        gigaflops: Floating-point operations by its count; a loop's body counts once.
        gigabytes: Bytes read and written by its count, likewise.
    """

    compile_seconds: float
    temporary_mib: float
    argument_mib: float
    gigaflops: float
    gigabytes: float


STEPS = ("sgd", BASELINE, "sam", "xsam, oja", "xsam, subspace", REFRESH, CHOSEN_BETWEEN)


@dataclass(frozen=True, kw_only=True)
class CompilationConfig:
    """Options of a program that compiles for a device that is not there."""

    model: WorkloadName = "simple_cnn"
    """Network, see experiments.speed."""
    batch_size: int = 256
    """Examples per step."""
    steps: tuple[str, ...] = STEPS
    """Names of the steps beside SAM in optax, see experiments.speed."""
    out: Path
    """Folder of the result, a JSON file named after what was compiled."""


def shapes_on(sharding: Sharding, tree: Any) -> Any:
    """Describe arrays as they would lie on devices that need not be there."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def steps_for(config: CompilationConfig, device: jax.Device) -> tuple[dict[str, Step], Any, Any]:
    """Make the steps, parameters and batch to be compiled for a device.

    Returns:
        The steps by name, the parameters and the batch, all without values.

    Raises:
        UserError: A step has no such name, or the folder cannot be written.
    """
    check("batch-size", config.batch_size, AT_LEAST_ONE)
    work = workload(config.model)
    # Without those that are compiled by an option of XLA:CPU.
    available = {name: s for name, s in all_steps(work).items() if s.compiler_options is None}
    chosen = only(available, config.steps)
    make_folder(config.out)
    there = SingleDeviceSharding(device)
    steps = {name: s._replace(state=shapes_on(there, s.state)) for name, s in chosen.items()}
    return steps, *shapes_on(there, (work.params, work.batch(config.batch_size)))


def save(
    config: CompilationConfig,
    program: str,
    steps: dict[str, dict[str, float]],
    *,
    options: dict[str, str] | None = None,
    prefix: str = "",
    compiler: dict[str, str] | None = None,
) -> Path:
    """Write the results of each step to a JSON file.

    Args:
        config: Options of the compilations.
        program: Name of the module that was run.
        steps: What was found.
        options: Those of the program's own.
        prefix: What the file's name begins with, before model and batch size.
        compiler: The compiler's version by its package, beside those of JAX.

    Returns:
        The file.
    """
    record = {
        "command": command(
            program,
            model=config.model,
            batch_size=config.batch_size,
            **(options or {}),
            steps=None if config.steps == STEPS else config.steps,
        ),
        "versions": versions() | (compiler or {}),
        "steps": steps,
    }
    file = config.out / f"{prefix}{config.model}-{config.batch_size}.json"
    write_json(file, record)
    return file


def compiled(step: Step, params: Any, batch: Any) -> jax.stages.Compiled:
    """Compile a step for the devices of its arguments."""
    lowered = jax.jit(step.function).lower(params, step.state, batch)
    return lowered.compile(compiler_options=step.compiler_options)


def memory_of(program: jax.stages.Compiled) -> Any:
    """Read how much memory the compiler plans."""
    return program.memory_analysis()


def compile_step(step: Step, params: Any, batch: Any) -> tuple[Callable[..., Any], Compiled]:
    """Compile a step with nothing cached; return it and what the compiler says of it."""
    jax.clear_caches()
    started = time.perf_counter()
    program = compiled(step, params, batch)
    seconds = time.perf_counter() - started
    cost: Any = program.cost_analysis()
    return program, Compiled(
        compile_seconds=seconds,
        temporary_mib=memory_of(program).temp_size_in_bytes / 2**20,
        argument_mib=memory_of(program).argument_size_in_bytes / 2**20,
        gigaflops=cost["flops"] / 1e9,
        gigabytes=cost["bytes accessed"] / 1e9,
    )


def seconds_of(call: Callable[[], Any], repeats: int) -> float:
    """Time a call: the mean over so many that are queued at once."""
    started = time.perf_counter()
    for _ in range(repeats):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - started) / repeats
