"""What a user can put right is told in one sentence, without a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake or a missing thing outside this program; its text is one sentence for the user."""

    status = 2


class BadNumbers(UserError):  # noqa: N818 - it is what the numbers are
    """A training that came to numbers that are not finite, and to no end."""

    status = 1


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn a `UserError` into one line on stderr and its exit status, Ctrl-C into status 130."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.status) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
