"""A run of several processes, one on each host: how they meet, agree and end.

All of them take the same steps, for in each step they wait for each other. So whatever is decided
by a clock, a signal or a disk is decided for all (`from_first`, `any_of`, `everywhere`), and only
process 0 writes (`first`). One that ends alone takes the others with it, within half a minute, and
each leaves a sentence that says what to do.
"""

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.errors import UserError

T = TypeVar("T")

# Instead of an address: what the cluster says.
CLUSTER = "cluster"
# Until a host that does not answer is taken for lost, and the others end.
_SILENCE_SECONDS = 30


@contextmanager
def joined(
    coordinator: str | None, num_processes: int | None = None, process_id: int | None = None
) -> Iterator[None]:
    """Be one of the processes of a run, until the context ends.

    Args:
        coordinator: Address and port at which process 0 can be reached, or `CLUSTER` for what
            Slurm, Open MPI, a TPU pod or another cluster that JAX knows says, then without the
            other two; None for a run of one process.
        num_processes: How many there are.
        process_id: Which one this is, from 0.

    Raises:
        UserError: The arguments do not fit each other, or the processes do not find each other.
    """
    others = (num_processes, process_id)
    if coordinator is None or coordinator == CLUSTER:
        if others != (None, None):
            raise UserError(
                "--num-processes and --process-id must be given with the address of a "
                f"--coordinator, not with {coordinator}."
            )
    elif num_processes is None or process_id is None or not 0 <= process_id < num_processes:
        raise UserError(
            "--coordinator needs --num-processes and a --process-id from 0 to the number before "
            f"it, not {num_processes} and {process_id}."
        )
    if coordinator is None:
        yield
        return
    _join(coordinator, num_processes, process_id)
    sentinel = _sentinel()
    try:
        yield
    except (UserError, SystemExit):  # on all of them
        _leave(sentinel)
        raise
    except BaseException as error:
        # Not as Python ends: that waits for the others.
        if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
            print(str(error).splitlines()[0], file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)
    _leave(sentinel)


def first(action: Callable[[], T]) -> T:
    """Do something in process 0 alone; its result, or its `UserError`, is that of all."""
    if jax.process_count() == 1:
        return action()
    message = b""
    if jax.process_index() == 0:
        try:
            message = pickle.dumps((action(), None))
        except UserError as error:
            message = pickle.dumps((None, str(error)))
    size = int(from_first(len(message)))
    content = np.frombuffer(message, np.uint8) if message else np.zeros(size, np.uint8)
    # Of our own process 0.
    result, error_text = pickle.loads(multihost_utils.broadcast_one_to_all(content).tobytes())
    if error_text is not None:
        raise UserError(error_text)
    value: T = result
    return value


def everywhere(action: Callable[[], T]) -> T:
    """Do something in every process; a `UserError` of one is one of all."""
    if jax.process_count() == 1:
        return action()
    text = ""
    try:
        value = action()
    except UserError as error:
        text = str(error)
    texts = _gathered(text)
    if text:
        raise UserError(text)
    for process, other in enumerate(texts):
        if other:
            raise UserError(f"process {process}: {other}")
    return value


def check_same(what: str, value: str) -> None:
    """Raises `UserError` unless all processes have the same value of something."""
    if jax.process_count() > 1 and len({*_gathered(value)}) > 1:
        raise UserError(f"the processes of a run must have the same {what}.")


def from_first(value: int) -> int:
    """Process 0's value."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def any_of(flag: bool) -> bool:
    """Whether it holds in any process."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def _gathered(text: str, size: int = 4096) -> list[str]:
    padded = np.zeros(size, np.uint8)
    content = np.frombuffer(text.encode()[:size], np.uint8)
    padded[: len(content)] = content
    rows = multihost_utils.process_allgather(padded)
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]


def _join(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
    # It would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    explicit = coordinator != CLUSTER
    try:
        jax.distributed.initialize(
            coordinator if explicit else None,
            num_processes,
            process_id,
            cluster_detection_method="deactivate" if explicit else None,
            heartbeat_timeout_seconds=_SILENCE_SECONDS,
            shutdown_timeout_seconds=_SILENCE_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(f"--coordinator {coordinator}: {str(error).splitlines()[0]}") from None


def _sentinel() -> subprocess.Popen[bytes]:
    """Says, when this process has ended without `_leave`, what there is to do.

    It may end by no exception of ours: JAX aborts it when process 0 is gone. So another one waits
    for the end of a pipe, and the words are the last.
    """
    words = (
        f"error: process {jax.process_index()} of {jax.process_count()} ended before the run did, "
        "for the reason above or because another process ended: start all of them again with the "
        "same commands, and the run goes on from its last checkpoint."
    )
    command = ["/bin/sh", "-c", 'read -r _ || echo "$1" >&2', "sh", words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _leave(sentinel: subprocess.Popen[bytes]) -> None:
    jax.distributed.shutdown()
    sentinel.communicate(b"\n")
