"""What XLA plans for a step on a TPU that need not be there: memory, operations and bytes.

python -m experiments.planned                        # six-layer CNN: 8 minutes on two cores
python -m experiments.planned --model resnet18       # 18 minutes
python -m experiments.planned --model transformer    # 3 minutes

The program is compiled for one chip and does not run, so there is no time. It needs libtpu:
pip install -e '.[experiments,tpu]'. Expected: docs/cost.md and results/planned.
"""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Sharding, SingleDeviceSharding

from experiments.errors import UserError, command_line, exit_on_user_error
from experiments.files import make_folder, write_json
from experiments.results import versions
from experiments.speed.__main__ import compile_step
from experiments.speed.steps import BASELINE, CHOSEN_BETWEEN, REFRESH, all_steps, as_option, only
from experiments.speed.table import Compiled
from experiments.speed.workloads import WorkloadName, workload

STEPS = ("sgd", BASELINE, "sam", "xsam, oja", "xsam, subspace", REFRESH, CHOSEN_BETWEEN)


@dataclass(frozen=True)
class PlannedConfig:
    """Options of the compilations."""

    model: WorkloadName = "simple_cnn"
    """Network, see experiments.speed."""
    batch_size: int = 256
    """Examples per step."""
    topology: str = "v5e:2x2"
    """TPUs of which one is compiled for, such as v6e:2x2."""
    steps: tuple[str, ...] = STEPS
    """Names of the steps beside SAM in optax, see experiments.speed."""
    out: Path = Path("results/planned")
    """Folder of the result, a JSON file named after topology, model and batch size."""


def tpus(topology: str) -> Sequence[jax.Device]:
    """The chips of a topology, to compile for.

    Raises:
        UserError: There is no such topology, or no libtpu.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("experiments.planned needs libtpu: pip install -e '.[experiments,tpu]'.")
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


def shapes_on(sharding: Sharding, tree: Any) -> Any:
    """Arrays as they would lie on devices that need not be there."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def plan(config: PlannedConfig) -> dict[str, Compiled]:
    """Compile all steps.

    Returns:
        What the compiler says of each.

    Raises:
        UserError: A step has no such name, there is no such chip, or the folder cannot be written.
    """
    if config.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, not {config.batch_size}.")
    work = workload(config.model)
    # Without those that are compiled by an option of XLA:CPU.
    available = {name: s for name, s in all_steps(work).items() if s.compiler_options is None}
    steps = only(available, config.steps)
    there = SingleDeviceSharding(tpus(config.topology)[0])
    make_folder(config.out)
    params, batch = shapes_on(there, (work.params, work.batch(config.batch_size)))
    found = {}
    for name, step in steps.items():
        step = step._replace(state=shapes_on(there, step.state))
        _, found[name] = compile_step(step, params, batch)
    return found


def table(found: dict[str, Compiled]) -> str:
    """The compiler's words in Markdown; "to SAM" is relative to SAM in optax."""
    lines = ["| step | memory MiB | to SAM | GFLOP | GB | to SAM |", "|---|---|---|---|---|---|"]
    sam = found[BASELINE]
    for name, step in found.items():
        # A small network's intermediate values are all in the chip's own vector memory.
        memory = f"{step.temporary_mib / sam.temporary_mib:.2f}" if sam.temporary_mib else ""
        lines.append(
            f"| {name} | {step.temporary_mib:.0f} | {memory} | {step.gigaflops:.1f} | "
            f"{step.gigabytes:.2f} | {step.gigabytes / sam.gigabytes:.2f} |"
        )
    return "\n".join(lines)


def _without_time(step: Compiled) -> dict[str, float]:
    """That of a compilation for another machine is of no interest."""
    return {name: value for name, value in step._asdict().items() if name != "compile_seconds"}


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        config = command_line(PlannedConfig, "experiments.planned", __doc__)
        # What is compiled for need not be there, and is not to be looked for.
        jax.config.update("jax_platforms", "cpu")
        found = plan(config)
        chips = config.topology.partition(":")[0]
        steps = "" if config.steps == STEPS else as_option(config.steps)
        record = {
            "command": f"python -m experiments.planned --model {config.model} --batch-size "
            f"{config.batch_size} --topology {config.topology}{steps}",
            "versions": versions() | {"libtpu": version("libtpu")},
            "steps": {name: _without_time(step) for name, step in found.items()},
        }
        file = config.out / f"{chips}-{config.model}-{config.batch_size}.json"
        write_json(file, record)
        print(table(found))
        print(f"written to {file}")


if __name__ == "__main__":
    main()
