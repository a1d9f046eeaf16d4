"""Count the kernels of a step on an NVIDIA GPU, and its memory; no GPU is needed.

python -m experiments.speed.gpu                        # six-layer CNN: 1 minute on two cores
python -m experiments.speed.gpu --model resnet18       # 4 minutes
python -m experiments.speed.gpu --model transformer    # 1 minute

A step of a few milliseconds is mostly the start of its kernels. The program is compiled for one
H100 and does not run, so there is no time. It needs JAX's compiler for CUDA:
pip install -e '.[experiments,cuda13]'. Expected: docs/cost.md and results/kernels.
"""

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from experiments.common.errors import UserError, command_line, exit_on_user_error
from experiments.common.tables import markdown
from experiments.speed.compilation import CompilationConfig, compiled, memory_of, save, steps_for
from experiments.speed.steps import BASELINE, Step

# What the compiler asks of a GPU. Figures of NVIDIA's H100 SXM data sheet and CUDA's tables.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_block_limit: 65536  registers_per_core_limit: 65536
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000  device_memory_size: 84978434048
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
"""
_CALLED = r"(?:body|condition|to_apply|computations?)=(\{.*?\}|[^,\s]+)"
_NO_KERNELS = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
    *("while", "conditional", "call"),
}


@dataclass(frozen=True, kw_only=True)
class KernelsConfig(CompilationConfig):
    """Options of the compilations."""

    out: Path = Path("runs/kernels")
    """Folder of the result, a JSON file named after model and batch size."""


class Program(NamedTuple):
    """What the compiler says of a step.

    Attributes:
        kernels: Kernels and calls of libraries; a loop's body counts once, and so does a branch.
        temporary_mib: Memory of intermediate values.
    """

    kernels: int
    temporary_mib: float


def h100() -> jax.Device:
    """Make a description of an NVIDIA H100 to compile for.

    Raises:
        UserError: JAX's compiler for CUDA is not installed.
    """
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        raise UserError("experiments.speed.gpu needs CUDA: pip install -e '.[experiments,cuda13]'.")
    # It would look for the GPU and for its driver's libraries.
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    topology = topologies.get_topology_desc("", "cuda", target_config=_H100, topology="1x1x1")
    return topology.devices[0]


def kernels_of(program: str) -> int:
    """Count the kernels that a compiled program starts.

    They are those of the entry and of the computations that it calls, but not of fusions, each of
    which is one kernel.
    """
    blocks = re.findall(r"^(ENTRY )?%?([\w.\-]+) .*\{\n((?: .*\n)*)", program, re.MULTILINE)
    computations = {entry or name: lines.splitlines() for entry, name, lines in blocks}
    count, reached = 0, ["ENTRY "]
    for name in reached:
        for line in computations[name]:
            (operation,) = re.findall(r"^ +(?:ROOT )?\S+ = (?:\(.*?\)|\S+) ([a-z\-]+)\(", line)
            count += operation not in _NO_KERNELS
            if operation in ("while", "conditional", "call"):
                for called in re.findall(_CALLED, line):
                    reached += re.findall(r"[^%{},\s]+", called)
    return count


def program_of(step: Step, params: Any, batch: Any) -> Program:
    """Compile a step for the GPU of its arguments, and count its kernels."""
    # Without a GPU nothing can be timed, by which it would choose kernels.
    step = step._replace(compiler_options={"xla_gpu_autotune_level": 0})
    program = compiled(step, params, batch)
    temporary = memory_of(program).temp_size_in_bytes / 2**20
    return Program(kernels_of(program.as_text() or ""), temporary)


def table(found: dict[str, Program]) -> str:
    """Format kernels and memory of all steps; "more" is relative to SAM in optax."""
    base = found[BASELINE].kernels
    rows = [
        (name, str(step.kernels), str(step.kernels - base), f"{step.temporary_mib:.0f}")
        for name, step in found.items()
    ]
    return markdown(("step", "kernels", "more", "memory MiB"), rows)


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        config = command_line(KernelsConfig, "experiments.speed.gpu", __doc__)
        # What is compiled for need not be there, and is not to be looked for.
        jax.config.update("jax_platforms", "cpu")
        steps, params, batch = steps_for(config, h100())
        found = {name: program_of(step, params, batch) for name, step in steps.items()}
        as_dicts = {name: step._asdict() for name, step in found.items()}
        file = save(config, "experiments.speed.gpu", as_dicts)
        print(table(found))
        print(f"written to {file}")


if __name__ == "__main__":
    main()
