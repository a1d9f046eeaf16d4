"""Work on many things: on all cores, and under a bar where a program shows one."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

from experiments.common.machine import cores

T = TypeVar("T")
U = TypeVar("U")

_SHOWN = ContextVar("shown", default=False)
# Things that a thread takes at a time: at most so many, and of a few so that the bar moves.
_PART = 64
_PARTS = 100


@contextmanager
def bars_shown(shown: bool = True) -> Iterator[None]:
    """Let bars be seen, on a terminal, until the context ends; a program says so, no function."""
    token = _SHOWN.set(shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def for_all(description: str, action: Callable[[T], U], values: Sequence[T]) -> list[U]:
    """Do something for all values in threads; the first error, in their order, ends it.

    Args:
        description: What is done; the bar has it, and goes away with it.
        action: Value -> result.
        values: The values.

    Returns:
        The results in the order of the values.
    """
    size = min(_PART, -(-len(values) // _PARTS) or 1)
    parts = [values[i : i + size] for i in range(0, len(values), size)]
    ended = Event()

    def results_of(part: Sequence[T]) -> list[U]:
        return [action(value) for value in part if not ended.is_set()]

    console = Console()
    bar = Progress(
        console=console, transient=True, disable=not (_SHOWN.get() and console.is_terminal)
    )
    results: list[U] = []
    with ThreadPoolExecutor(cores()) as pool, bar:
        task = bar.add_task(description, total=len(values))
        try:
            for part in pool.map(results_of, parts):
                results += part
                bar.advance(task, len(part))
        except BaseException:
            # Else the threads would first finish their parts, after Ctrl-C too.
            ended.set()
            raise
    return results
