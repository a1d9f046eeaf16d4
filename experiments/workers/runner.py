"""Does planned runs in worker processes, each pinned to cores of its own."""

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from queue import SimpleQueue
from typing import IO, Any

from experiments.common.machine import affinity, available_mib
from experiments.workers.planned import Planned
from experiments.workers.worker import encode

# (the run, what its worker said: a result or an error)
OnRun = Callable[[Planned, Mapping[str, Any]], None]
_WORKER = (sys.executable, "-m", "experiments.workers.worker")


def slots(jobs: int) -> list[frozenset[int]]:
    """Divide the cores among the workers.

    Args:
        jobs: Number of workers.

    Returns:
        The cores of each, empty for all; XLA takes as many threads as its process has cores.
    """
    cores = affinity()
    if jobs == 1 or not cores:
        return [frozenset[int]()] * jobs
    return [frozenset(cores[i::jobs] or [cores[i % len(cores)]]) for i in range(jobs)]


def execute(plan: Iterable[Planned], jobs: int, on_run: OnRun) -> None:
    """Do all runs of a plan.

    Runs of one method, network and data set follow each other in one worker, which compiles them
    once. A worker that dies fails the run it had in hand and is replaced. A second worker starts
    when the first one's memory is known, and only if there is room for it. An exception here, such
    as that of Ctrl-C, ends all workers at once; their runs are neither finished nor reported.

    Args:
        plan: The runs.
        jobs: Workers at a time, at most.
        on_run: Called after each run, from one thread at a time.
    """
    groups = [
        list(group) for _, group in itertools.groupby(plan, key=lambda run: (run.stage, run.cell))
    ]
    free: SimpleQueue[frozenset[int]] = SimpleQueue()
    for cores in slots(jobs):
        free.put(cores)
    lock, memory, crew = threading.Lock(), _Memory(), _Crew()

    def work(group: list[Planned]) -> None:
        cores = free.get()
        if cores:
            # Of this thread alone; the worker inherits it.
            os.sched_setaffinity(0, cores)
        try:
            with memory:
                _serve(group, report, crew)
        finally:
            free.put(cores)

    def report(run: Planned, said: Mapping[str, Any]) -> None:
        with lock:
            if not crew.dismissed:
                memory.learn(said.get("peak_mib"))
                on_run(run, said)

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(work, group) for group in groups]
        try:
            for future in futures:
                future.result()
        except BaseException:
            crew.dismiss()
            pool.shutdown(cancel_futures=True)
            raise


class _Crew:
    """The worker processes that are alive."""

    def __init__(self) -> None:
        self.dismissed = False
        self._workers: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def hire(self) -> subprocess.Popen[str]:
        with self._lock:
            if self.dismissed:
                raise CancelledError
            worker = subprocess.Popen(
                _WORKER,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                # Ctrl-C is for the benchmark to answer.
                start_new_session=True,
            )
            self._workers.add(worker)
            return worker

    def dismiss(self) -> None:
        with self._lock:
            self.dismissed = True
            for worker in self._workers:
                worker.kill()

    def part_with(self, worker: subprocess.Popen[str]) -> None:
        with self._lock:
            self._workers.remove(worker)


def _serve(group: list[Planned], report: OnRun, crew: _Crew) -> None:
    """Have a worker do a group of runs; if it dies, a new one does the rest."""
    while group:
        with crew.hire() as worker:
            assert worker.stdin is not None
            assert worker.stdout is not None
            assert worker.stderr is not None
            errors: list[str] = []
            listener = threading.Thread(target=_keep_last, args=(worker.stderr, errors))
            listener.start()
            try:
                while group:
                    said = _ask(worker.stdin, worker.stdout, encode(group[0].config))
                    if said is None:
                        break
                    report(group.pop(0), said)
                worker.stdin.close()
            except BrokenPipeError:
                pass  # It is dead: what is left is reported below.
            except BaseException:
                worker.kill()
                raise
            worker.wait()
            crew.part_with(worker)
            listener.join()
        if group:
            reason = errors[0] if errors else "no message"
            report(
                group.pop(0),
                {"error": f"the worker ended with status {worker.returncode}: {reason}"},
            )


def _ask(stdin: IO[str], stdout: IO[str], line: str) -> Mapping[str, Any] | None:
    stdin.write(line + "\n")
    stdin.flush()
    answer = stdout.readline()
    if not answer.endswith("\n"):
        return None
    said: Mapping[str, Any] = json.loads(answer)
    return said


def _keep_last(stderr: IO[str], errors: list[str]) -> None:
    for line in stderr:
        if line.strip():
            errors[:] = [line.strip()]


class _Memory:
    """Starts workers as memory allows: one, and more when a run's memory is known and fits."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._peak_mib: float | None = None

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(self._room)
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def learn(self, peak_mib: float | None) -> None:
        with self._changed:
            if peak_mib is not None:
                self._peak_mib = max(peak_mib, self._peak_mib or 0)
            self._changed.notify_all()

    def _room(self) -> bool:
        if self._running == 0:
            return True
        return self._peak_mib is not None and available_mib() > 1.25 * self._peak_mib
