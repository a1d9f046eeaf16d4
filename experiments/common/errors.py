"""How programs end: with one sentence for a user's mistake, and saved after a signal."""

import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from types import FrameType
from typing import Any

import tyro


class UserError(Exception):
    """A mistake or a missing thing outside this program; its text is one sentence for the user."""

    status = 2


class BadNumbers(UserError):  # noqa: N818 - it is what the numbers are
    """A training gave up after too many steps that were not finite."""

    status = 1


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn a `UserError` into one line on stderr and its exit status, Ctrl-C into status 130.

    And an output that nobody reads any more into 141, as of other programs in a pipe.
    """
    for stream in (sys.stdout, sys.stderr):
        # A bar or a lambda in an encoding that lacks it becomes a question mark.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes it once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.status) from None
    except (RuntimeError, AssertionError) as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        if not last.filename.endswith("xla_bridge.py"):
            raise
        asked = os.environ.get("JAX_PLATFORMS", "")
        print(f"error: JAX finds no device for JAX_PLATFORMS={asked}. {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def command_line(options: Any, program: str, description: str | None = None) -> Any:
    """Parse the command line.

    Args:
        options: What `tyro.cli` takes: a dataclass or a function.
        program: Name of the module.
        description: Text of --help.

    Returns:
        What `tyro.cli` returns.

    Raises:
        UserError: It is wrong; of tyro's box the first paragraph.
    """
    if description is not None:
        # It joins the lines of a paragraph: a command becomes one of its own.
        description = re.sub(r"\n+(?=python -m)", "\n\n", description)
        # A command that goes on in the next line of the source has its indentation inside.
        description = re.sub(r"(?<=\S) {3,}(?=[^\s#])", " ", description)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(options, prog=f"python -m {program}", description=description)
    except SystemExit as stopped:
        if stopped.code != 2:
            raise
    # The first line is the upper edge with a title.
    words: list[str] = []
    for line in said.getvalue().splitlines()[1:]:
        text = line.strip("│╰╯─ ")
        if words and not text:
            break
        words += text.split()
    raise UserError(f"{' '.join(words)} See python -m {program} --help.")


class Stopped(Exception):  # noqa: N818 - it is no error
    """A run was told to stop and has saved itself; the text says where it is."""


@contextmanager
def graceful_stop() -> Iterator[Callable[[], bool]]:
    """Let a run save itself and stop after SIGINT (Ctrl-C) or SIGTERM.

    The first signal is noted, a second one of either interrupts at once. A `Stopped` becomes one
    line on stderr and the exit status of a program that the signal ended, 130 after SIGINT and 143
    after SIGTERM, so that ``train && evaluate`` goes no further.

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
        raise SystemExit(128 + int(received[0] if received else signal.SIGTERM)) from None
    finally:
        restore()
