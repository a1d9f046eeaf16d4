"""A worker: reads configurations from stdin, trains, and writes results to stdout, as JSON lines.

It is a process of its own, so that a run that takes it down, for lack of memory say, takes no
other run's result along.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import jax

from experiments.common.errors import UserError
from experiments.common.machine import peak_mib
from experiments.training.config import TrainConfig
from experiments.training.run import train
from experiments.training.run_folder import as_json
from experiments.workers.store import CURVES


def encode(config: TrainConfig) -> str:
    """Write a configuration as a line."""
    return json.dumps(config.to_json())


def decode(line: str) -> TrainConfig:
    """Read a configuration that `encode` wrote."""
    fields = json.loads(line)
    if fields["data_dir"] is not None:
        fields["data_dir"] = Path(fields["data_dir"])
    return TrainConfig(**fields)


def run(config: TrainConfig) -> Mapping[str, Any]:
    """Train with one configuration, and describe the result.

    Returns:
        The result, the columns of its epochs, how many steps were left out because they were not
        finite, where it ran, CPU seconds and the process's peak memory so far; or the error.
    """
    cpu = time.process_time()
    # A trial that diverges is a bad one, and none that failed.
    config = replace(config, checkpoint_every=0, max_bad_steps=0)
    try:
        found = train(config, keep=False)
    except UserError as error:
        return {"error": str(error)}
    except Exception as error:
        first = str(error).partition("\n")[0]
        return {"error": f"{type(error).__name__}: {first or 'no message'}"}
    epochs = [as_json(epoch) for epoch in found.epochs]
    return {
        "result": as_json(found.result),
        "epochs": {name: [_short(epoch[name]) for epoch in epochs] for name in CURVES},
        "bad_steps": sum(len(epoch["bad_steps"]) for epoch in epochs),
        "platform": jax.default_backend(),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_mib": round(peak_mib()),
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def main() -> None:
    """Train until stdin ends; if it ends during a run, the benchmark was killed."""
    lines: SimpleQueue[str | None] = SimpleQueue()
    at_work = Event()

    def listen() -> None:
        for line in sys.stdin:
            at_work.set()
            lines.put(line)
        if at_work.is_set():
            os._exit(1)
        lines.put(None)

    Thread(target=listen, daemon=True).start()
    while (line := lines.get()) is not None:
        said = json.dumps(run(decode(line)))
        at_work.clear()
        print(said, flush=True)


if __name__ == "__main__":
    main()
