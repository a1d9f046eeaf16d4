"""Memory, operations and bytes that XLA plans for a step on a TPU; no TPU is needed.

python -m experiments.speed.tpu                        # six-layer CNN: 8 minutes on two cores
python -m experiments.speed.tpu --model resnet18       # 18 minutes
python -m experiments.speed.tpu --model transformer    # 3 minutes

The program is compiled for one chip and does not run, so there is no time. It needs libtpu:
pip install -e '.[experiments,tpu]'. Expected: docs/cost.md and results/planned.
"""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jax
from jax.experimental import topologies

from experiments.common.errors import UserError, command_line, exit_on_user_error
from experiments.common.tables import markdown
from experiments.speed.compilation import CompilationConfig, Compiled, compile_step, save, steps_for
from experiments.speed.steps import BASELINE


@dataclass(frozen=True, kw_only=True)
class PlannedConfig(CompilationConfig):
    """Options of the compilations."""

    topology: str = "v5e:2x2"
    """TPUs of which one is compiled for, such as v6e:2x2."""
    out: Path = Path("runs/planned")
    """Folder of the result, a JSON file named after topology, model and batch size."""


def tpus(topology: str) -> Sequence[jax.Device]:
    """List the chips of a topology, to compile for.

    Raises:
        UserError: There is no such topology, or no libtpu.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("experiments.speed.tpu needs libtpu: pip install -e '.[experiments,tpu]'.")
    # Libtpu would ask the network what TPUs this machine has, and serve one process at a time.
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    try:
        # Without a name libtpu would choose one.
        return topologies.get_topology_desc(topology or "none", "tpu").devices
    except jax.errors.JaxRuntimeError:
        raise UserError(
            f"--topology must be one that libtpu has, such as v5e:2x2, not {topology or 'none'}."
        ) from None


def table(found: dict[str, Compiled]) -> str:
    """Format memory and operations of all steps; "to SAM" is relative to SAM in optax."""
    sam, rows = found[BASELINE], []
    for name, step in found.items():
        # A small network's intermediate values are all in the chip's own vector memory.
        memory = f"{step.temporary_mib / sam.temporary_mib:.2f}" if sam.temporary_mib else ""
        moved = f"{step.gigabytes:.2f}", f"{step.gigabytes / sam.gigabytes:.2f}"
        rows.append((name, f"{step.temporary_mib:.0f}", memory, f"{step.gigaflops:.1f}", *moved))
    return markdown(("step", "memory MiB", "to SAM", "GFLOP", "GB", "to SAM"), rows)


def _without_time(step: Compiled) -> dict[str, float]:
    """Drop the compile time: it says nothing about a TPU."""
    return {name: value for name, value in step._asdict().items() if name != "compile_seconds"}


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        config = command_line(PlannedConfig, "experiments.speed.tpu", __doc__)
        # What is compiled for need not be there, and is not to be looked for.
        jax.config.update("jax_platforms", "cpu")
        steps, params, batch = steps_for(config, tpus(config.topology)[0])
        found = {name: compile_step(step, params, batch)[1] for name, step in steps.items()}
        file = save(
            config,
            "experiments.speed.tpu",
            {name: _without_time(step) for name, step in found.items()},
            options={"topology": config.topology},
            prefix=f"{config.topology.partition(':')[0]}-",
            compiler={"libtpu": version("libtpu")},
        )
        print(table(found))
        print(f"written to {file}")


if __name__ == "__main__":
    main()
