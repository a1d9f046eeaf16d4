"""Two processes on loopback take the steps of one, and none outlives the other."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.common.errors import graceful_stop
from experiments.train import main
from experiments.training.checkpoint import CHECKPOINTS
from experiments.training.config import TrainConfig
from experiments.training.run import train
from tests.experiments.conftest import Fails

CONFIG = {
    "method": "xsam_oja",
    "model": "mlp",
    "batch_size": 48,
    "epochs": 8,
    "curvature_every": 8,
    "curvature_samples": 64,
    "num_matvecs": 4,
    "train_images": 192,
    "test_images": 100,
    "checkpoint_every": 1,
}


def by_options(port: int, process: int) -> tuple[list[str], dict[str, str]]:
    address = f"--coordinator=127.0.0.1:{port}"
    return [address, "--num-processes=2", f"--process-id={process}"], {}


def by_slurm(port: int, process: int) -> tuple[list[str], dict[str, str]]:
    environment = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": "0",
        "JAX_COORDINATOR_PORT": str(port),
    }
    return ["--coordinator=cluster"], environment


class Run:
    """The two processes of a run, the second with a folder of its own."""

    def __init__(self, out: Path, *options: str, joined: Any = by_options) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.out, self.began = out, self.last_checkpoint(out)
        command = [sys.executable, "-m", "experiments.train", *options]
        command += [f"--{name.replace('_', '-')}={value}" for name, value in CONFIG.items()]
        environment = {
            **os.environ,
            "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1"),
        }
        self.processes = []
        for process, folder in enumerate((out, out.parent / "nothing")):
            flags, variables = joined(port, process)
            started = subprocess.Popen(
                [*command, *flags, f"--out={folder}"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environment | variables,
            )
            self.processes.append(started)

    @staticmethod
    def last_checkpoint(out: Path) -> str:
        return max((place.name for place in (out / CHECKPOINTS).glob("[0-9]*")), default="")

    def kill(self, process: int) -> None:
        """Kill a process after the first checkpoint that the run adds."""
        alive = True
        while alive and self.last_checkpoint(self.out) <= self.began:
            time.sleep(0.01)
            alive = all(process.poll() is None for process in self.processes)
        self.processes[process].kill()

    def end(self) -> list[tuple[int, str]]:
        """Wait for both; return status and last line on stderr of each. A hang is an error."""
        ends = [(process, process.communicate(timeout=300)[1]) for process in self.processes]
        return [(process.returncode, f"\n{errors}".splitlines()[-1]) for process, errors in ends]


def numbers(out: Path) -> list[dict[str, float]]:
    """Read what was measured, but for the wall times."""
    lines = [*(out / "metrics.jsonl").read_text().splitlines(), (out / "result.json").read_text()]
    return [
        {
            k: v
            for k, v in json.loads(line).items()
            if isinstance(v, (int, float)) and k != "seconds"
        }
        for line in lines
    ]


@pytest.mark.slow
def test_killed_in_turn(tmp_path: Path) -> None:
    out = tmp_path / "two"
    for victim, options in ((1, ["--fsdp"]), (0, [])):
        run = Run(out, *options)
        run.kill(victim)
        status, line = run.end()[1 - victim]
        assert status > 0 or status == -signal.SIGABRT
        assert line.startswith(f"error: process {1 - victim} of 2 ended before the run did")
        assert "start all of them again with the same commands" in line
        assert not (out / "result.json").exists()
    assert [status for status, _ in Run(out, "--fsdp", joined=by_slurm).end()] == [0, 0]

    one = tmp_path / "one"
    train(TrainConfig(**CONFIG, out=one))
    assert {file.name for file in out.iterdir()} == {file.name for file in one.iterdir()}
    assert not (tmp_path / "nothing").exists()
    for mine, theirs in zip(numbers(out), numbers(one), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


def test_the_others_signal_stops_this_process_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.training.loop.any_of", lambda mine: True)
    with pytest.raises(SystemExit) as stopped, graceful_stop() as stopping:
        train(TrainConfig(**CONFIG, out=tmp_path), stopping=stopping)
    assert stopped.value.code == 143
    assert list((tmp_path / CHECKPOINTS).iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--num-processes=2"], "must be given with the address of a --coordinator, not with None"),
        (["--coordinator=cluster", "--process-id=0"], "a --coordinator, not with cluster"),
        (["--coordinator=host:1"], "not None and None"),
        (
            ["--coordinator=host:1", "--num-processes=2", "--process-id=2"],
            "--process-id from 0 to the number before it, not 2 and 2",
        ),
        (["--coordinator=cluster"], "--coordinator cluster: "),
        *(
            ([f"--coordinator={wrong}", "--num-processes=2", "--process-id=0"], "ADDRESS:PORT")
            for wrong in ("host", "host:0", "host:99999", "host:x")
        ),
    ],
)
def test_options(options: list[str], words: str, fails: Fails) -> None:
    assert words in fails(main, options)
