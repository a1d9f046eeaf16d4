"""The benchmark's workers: they fail, die, are interrupted, and outlive nothing."""

import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmark.protocol import tuning_runs
from experiments.workers import runner, store, worker
from experiments.workers.runner import execute, slots
from experiments.workers.worker import decode, encode
from tests.experiments.benchmark.test_benchmark import SAM, TINY

# What no test waits for.
ENDLESS = replace(tuning_runs(TINY, SAM)[0].config, epochs=10**6)


def test_a_worker_reports_an_error_without_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(worker, "train", broken)
    assert worker.run(tuning_runs(TINY, SAM)[0].config) == {"error": "MemoryError: no message"}


def test_worker_gets_what_was_planned() -> None:
    config = replace(tuning_runs(TINY, SAM)[0].config, data_dir=Path("a"))
    assert decode(encode(config)) == config


@pytest.mark.parametrize(
    ("cores", "jobs", "shares"),
    [
        ([0, 1, 4, 5, 6], 2, [{0, 4, 6}, {1, 5}]),
        ([2, 3], 3, [{2}, {3}, {2}]),
        ([0, 1], 1, [set()]),
        ([], 2, [set(), set()]),
    ],
)
def test_cores_are_shared_out(
    cores: list[int], jobs: int, shares: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "affinity", lambda: cores)
    assert slots(jobs) == shares


@pytest.mark.slow
def test_a_failed_run_does_not_stop_the_rest() -> None:
    good = tuning_runs(TINY, SAM)
    bad = good[0]._replace(config=replace(good[0].config, train_images=10_000))
    said: list[tuple[str, bool]] = []
    execute([bad, *good], 1, lambda run, answer: said.append((run.key, "error" in answer)))
    assert said == [(bad.key, True), *((run.key, False) for run in good)]


def test_a_worker_that_dies_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; sys.stdin.readline(); print('no memory', file=sys.stderr); sys.exit(3)"
    monkeypatch.setattr("experiments.workers.runner._WORKER", (sys.executable, "-c", program))
    said: list[str] = []
    plan = tuning_runs(TINY, SAM)
    execute(plan, 1, lambda _, answer: said.append(answer["error"]))
    assert said == ["the worker ended with status 3: no memory"] * len(plan)


def test_an_interruption_ends_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    # The second worker would never answer.
    program = (
        "import sys, time; line = sys.stdin.readline();"
        """print('{}', flush=True) if '"method": "sgd"' in line else time.sleep(600)"""
    )
    monkeypatch.setattr("experiments.workers.runner._WORKER", (sys.executable, "-c", program))
    plan = [tuning_runs(TINY, SAM)[0], tuning_runs(TINY, SAM._replace(method="sgd"))[0]]
    interrupt = signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
    # A shell's background jobs start with it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(2.0, *interrupt).start()
    said: list[str] = []
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            execute([plan[1], plan[0]], 1, lambda run, _: said.append(run.config.method))
    finally:
        signal.signal(signal.SIGINT, before)
    assert said == ["sgd"]
    assert time.monotonic() - started < 60


def test_a_worker_does_not_outlive_its_benchmark() -> None:
    command = [sys.executable, "-m", "experiments.workers.worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(encode(ENDLESS) + "\n")
        process.stdin.close()
        try:
            assert process.wait(60) == 1
        finally:
            process.kill()


def test_sigterm_ends_the_workers(tmp_path: Path) -> None:
    """As Ctrl-C does: they would go on, and keep the memory from the next benchmark's."""
    options = ["--methods", "sgd", "--tuning-seeds", "100", "--seeds", "0", "--jobs", "1"]
    command = [sys.executable, "-m", "experiments.benchmark", "digits", "--out", str(tmp_path)]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (found := store.read(tmp_path)) and time.monotonic() < deadline:
            time.sleep(0.1)
        threads = Path(f"/proc/{process.pid}/task").iterdir()
        workers = [pid for thread in threads for pid in (thread / "children").read_text().split()]
        process.send_signal(signal.SIGTERM)
        try:
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert found
    assert "the same command goes on" in said
    assert len(workers) == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
