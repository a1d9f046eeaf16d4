"""Runs of several processes, one on each host: how they meet, agree and end.

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
from functools import cache
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from experiments.common.errors import UserError

T = TypeVar("T")

# Instead of an address: what the cluster says.
CLUSTER = "cluster"
# Until a host that does not answer is taken for lost, and the others end.
_SILENCE_SECONDS = 30


@contextmanager
def joined(
    coordinator: str | None, num_processes: int | None = None, process_id: int | None = None
) -> Iterator[None]:
    """Join the processes of a run, until the context ends.

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
    port = coordinator.rpartition(":")[2]
    if coordinator != CLUSTER and not (port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(f"--coordinator must be ADDRESS:PORT or {CLUSTER}, not {coordinator}.")
    one = "a process" if process_id is None else f"process {process_id} of {num_processes}"
    sentinel = _sentinel(one)
    try:
        _join(coordinator, num_processes, process_id)
        yield
    except (UserError, SystemExit):  # on all of them
        _leave(sentinel)
        raise
    except BaseException as error:
        if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
            print(str(error).splitlines()[0], file=sys.stderr)  # another process is gone
        elif not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        # Not as Python ends: that waits for the others.
        os._exit(130 if isinstance(error, KeyboardInterrupt) else 2)
    _leave(sentinel)


def first(action: Callable[[], T]) -> T:
    """Do something in process 0 alone, and give every process its result or `UserError`."""
    if jax.process_count() == 1:
        return action()
    message = b""
    if jax.process_index() == 0:
        try:
            message = pickle.dumps((action(), None))
        except UserError as error:
            message = pickle.dumps((None, str(error)))
    size = from_first(len(message))
    content = np.frombuffer(message, np.uint8) if message else np.zeros(size, np.uint8)
    result, text = pickle.loads(_from_first(content).tobytes())
    if text is not None:
        raise UserError(text)
    value: T = result
    return value


def everywhere(action: Callable[[], T]) -> T:
    """Do something in every process; a `UserError` in one is raised in all."""
    if jax.process_count() == 1:
        return action()
    text = ""
    try:
        value = action()
    except UserError as error:
        text = str(error)
    texts = _texts(text)
    if text:
        raise UserError(text)
    for process, other in enumerate(texts):
        if other:
            raise UserError(f"process {process}: {other}")
    return value


def check_same(what: str, value: str) -> None:
    """Raises `UserError` unless all processes have the same value of something."""
    if jax.process_count() > 1 and len({*_texts(value)}) > 1:
        raise UserError(f"the processes of a run must have the same {what}.")


def from_first(value: int) -> int:
    """Give every process the value of process 0."""
    if jax.process_count() == 1:
        return value
    return int(_from_first(np.int32(value)))


def any_of(flag: bool) -> bool:
    """Ask whether something holds in any process."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(_of_all(np.bool_(flag))))


def _texts(text: str, size: int = 4096) -> list[str]:
    content = text.encode()[:size].ljust(size, b"\0")
    rows = _of_all(np.frombuffer(content, np.uint8))
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]


def _of_all(value: Any) -> NDArray[Any]:
    """Collect the values of all processes on a leading axis."""
    return np.asarray(_exchange()[0](_global(value)))


def _from_first(value: Any) -> NDArray[Any]:
    return np.asarray(_exchange()[1](_global(value)))


def _global(value: Any) -> jax.Array:
    sharding = NamedSharding(_processes(), PartitionSpec("process"))
    shape = (jax.process_count(), *np.shape(value))
    return jax.make_array_from_callback(shape, sharding, lambda _: np.asarray(value)[None])


@cache
def _processes() -> Mesh:
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    rows = np.array(devices).reshape(jax.process_count(), -1)
    return Mesh(rows, ("process", "device"))


@cache
def _exchange() -> tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array]]:
    # Not jax.experimental.multihost_utils, which compiles anew every time.
    everywhere = NamedSharding(_processes(), PartitionSpec())
    every = jax.jit(lambda values: values, out_shardings=everywhere)
    return every, jax.jit(lambda values: values[0], out_shardings=everywhere)


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


def _sentinel(process: str) -> subprocess.Popen[bytes]:
    """Start a program that says what to do if this process ends without `_leave`.

    No exception of ours need come before the end: JAX aborts when process 0 is gone, or when not
    all have come. So another program waits for the end of a pipe, and has the last word.
    """
    words = (
        f"error: {process} ended before the run did, for the reason above or because another "
        "process ended or never came: start all of them again with the same commands, and the run "
        "goes on from its last checkpoint."
    )
    command = ["/bin/sh", "-c", 'read -r _ || echo "$1" >&2', "sh", words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _leave(sentinel: subprocess.Popen[bytes]) -> None:
    jax.distributed.shutdown()
    sentinel.communicate(b"\n")
