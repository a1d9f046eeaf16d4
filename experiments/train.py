"""Train a network on small images with X-SAM or a method it is compared with.

python -m experiments.train                 # X-SAM, six-layer CNN, digits: 20 seconds on two cores
python -m experiments.train --method sam --model mlp --seed 1
python -m experiments.train --dataset folder --data-dir photos --image-size 32   # photos/CLASS/*

The same from Python: experiments.training.run.train(TrainConfig(method="sam")). Ctrl-C and SIGTERM
finish the step and save the run; the same command, or one after any other end, goes on from the
last checkpoint. An option that is None takes the default that its text names. A finished run keeps
its weights: experiments.load(FOLDER) gives them, experiments.analyse measures their curvature, and
more --epochs go on from them.

Exit status: 0 the run is finished, now or before; 1 its numbers were not finite too many times in a
row; 2 a mistake, told in one line; 130 stopped by Ctrl-C, 143 by SIGTERM, both saved; 141 nobody
read the output.

While the run goes on, "estimated" are the eigenvalue and the angle that the method itself knows, of
the last mini-batches; "measured" are those of metrics.jsonl, of the fixed training subset.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import jax
import tyro

from experiments.common.errors import command_line, exit_on_user_error, graceful_stop
from experiments.common.many import bars_shown
from experiments.data.folder import describe
from experiments.training.config import TrainConfig
from experiments.training.devices import choose
from experiments.training.hosts import everywhere, first, joined
from experiments.training.program import prepare
from experiments.training.progress import progress_bar
from experiments.training.resolve import refuse_ignored, resolve
from experiments.training.run import train
from experiments.training.run_folder import finished, refuse_other_run


@dataclass(frozen=True, kw_only=True)
class _Command:
    """Train a network and record its accuracy and curvature."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    devices: int | None = None
    """How many devices to use (None: all). Each takes its part of every batch."""
    fsdp: bool = False
    """Keep only a part of the parameters, and of the optimizer's state, on each device."""
    tensorboard: bool = False
    """Write event files for TensorBoard into the folder tensorboard of the results, too (needs
    pip install -e '.[tensorboard]')."""
    coordinator: str | None = None
    """Several hosts: ADDRESS:PORT at which all can reach process 0, or `cluster` to take this and
    the following two from Slurm, Open MPI or another cluster that JAX knows. Start the same command
    on every host."""
    num_processes: int | None = None
    """Several hosts: number of processes, one on each."""
    process_id: int | None = None
    """Several hosts: which of them this is, counted from 0. Process 0 writes the results."""


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        command = command_line(_Command, "experiments.train", __doc__)
        hosts = joined(command.coordinator, command.num_processes, command.process_id)
        with hosts, bars_shown(jax.process_index() == 0):
            resolved = everywhere(partial(resolve, command.config))
            everywhere(partial(refuse_ignored, command.config))
            devices = everywhere(partial(choose, command.devices, fsdp=command.fsdp))
            writes = jax.process_index() == 0
            if first(partial(finished, resolved)):
                if writes:
                    print(
                        f"{resolved.out} holds this run, finished: remove it, or name another "
                        "--out, to train again; more --epochs go on from it"
                    )
                return
            first(partial(refuse_other_run, resolved))
            # Before anything is written: Ctrl-C ends the reading at once.
            _, program = prepare(command.config, None, devices)
            if writes and program.data.classes:
                print(describe(program.data))
            bar = progress_bar() if writes else nullcontext()
            with graceful_stop() as stopping, bar as progress:
                run = train(
                    command.config,
                    progress=progress,
                    stopping=stopping,
                    devices=devices,
                    tensorboard=command.tensorboard,
                )
            if writes:
                print(f"test accuracy {run.result.test_accuracy:.2f} %, results in {resolved.out}")


if __name__ == "__main__":
    main()
