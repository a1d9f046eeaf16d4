"""A run that is told to stop finishes its step and saves itself."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):  # noqa: N818 - it is no error
    """A run was told to stop and has saved itself; the text says where it is."""


@contextmanager
def graceful_stop() -> Iterator[Callable[[], bool]]:
    """Take SIGINT (Ctrl-C) and SIGTERM for the wish to stop, and `Stopped` for its fulfilment.

    The first signal is noted, a second one of either interrupts at once. A `Stopped` becomes one
    line on stderr and exit status 130 after SIGINT, 0 after SIGTERM.

    Yields:
        Whether there was a signal.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        # Another process of the run may have received it.
        raise SystemExit(130 if signal.SIGINT in received[:1] else 0) from None
    finally:
        restore()
