"""Finds gradient functions that ignore the parameters they are given.

``grad_fn=lambda p: jax.grad(loss)(params)`` runs without an error, and SAM with it is plain
gradient descent. The traced program shows it.
"""

import warnings
from typing import Any

import chex
import jax
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr

_WHAT = "{name} does not depend on its argument"
_WAY_OUT = "Take the gradient at the argument: {name}=lambda p: jax.grad(loss)(p)"


def check(name: str, closed: core.ClosedJaxpr, params: chex.ArrayTree, skipped: int = 0) -> None:
    """Raises or warns where no result of a traced function depends on its arguments.

    Args:
      name: of the function.
      closed: the function.
      params: the step's parameters. A function that reads these in the place of its argument is
        wrong, which is an error. Otherwise its result may be a constant, as the gradient of a
        linear loss is, or of parameters from elsewhere, which is a warning.
      skipped: so many of the first arguments do not count.
    """
    *_, used = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    if any(used[skipped:]) or not any(var.aval.size for var in closed.jaxpr.invars[skipped:]):
        return
    read: set[Any] = {id(constant) for constant in closed.consts}
    what, way_out = _WHAT.format(name=name), _WAY_OUT.format(name=name)
    if any(id(leaf) in read for leaf in jax.tree.leaves(params)):
        raise ValueError(
            f"{what}, it reads params instead: the gradients at all parameters would be the same. "
            f"{way_out}"
        )
    warnings.warn(
        f"{what}. That is right only where the gradient is a constant, as that of a linear loss. "
        f"Elsewhere it reads parameters of a model, a train state or a closure. {way_out}",
        UserWarning,
        stacklevel=2,
    )
