"""Signatures that `help` shows as they are written."""

import inspect
from collections.abc import Iterable
from typing import Any


class _Unquoted(str):
    """An annotation whose `repr`, which Python 3.11 shows, is without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def readable(public: Iterable[Any]) -> None:
    """Takes the quotes from the annotations of functions, and of what makes a NamedTuple."""
    for value in public:
        if inspect.isclass(value):
            value = value.__new__
        if inspect.isfunction(value):
            value.__annotations__ = {
                name: _unquoted(kind) for name, kind in value.__annotations__.items()
            }


def _unquoted(annotation: Any) -> Any:
    text = getattr(annotation, "__forward_arg__", annotation)  # of a typing.ForwardRef
    return _Unquoted(text) if isinstance(text, str) else annotation
