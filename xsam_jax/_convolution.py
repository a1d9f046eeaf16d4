"""Convolutions that stay fast inside control flow on CPU.

XLA:CPU has a fast convolution kernel for channels-last operands only, and changes layouts to suit
it only in the entry computation: inside ``lax.cond``, ``while_loop`` and ``scan`` a convolution's
gradient, whose operands come in other layouts, falls to a generic loop 36 to 75 times slower
(https://github.com/jax-ml/jax/issues/12868). Explicit transposes put the layout into the program
itself, where no pass has to find it. A refresh of the eigenvector stands in a ``lax.cond``, so
without this the whole method would be unusable on CPU.
"""

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
from jax.extend import core

P = ParamSpec("P")
T = TypeVar("T")


def channels_last(fn: Callable[P, T]) -> Callable[P, T]:
    raise NotImplementedError
