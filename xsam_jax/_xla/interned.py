"""Replaces a traced function by an equal earlier one, so that JAX compiles it once.

Outside of `jax.jit` JAX finds what it has compiled for a loop by the identity of the loop's traced
body, and each call of a function traces it anew.
"""

import itertools
import weakref
from collections import defaultdict
from collections.abc import Hashable
from typing import Any

import numpy as np
from jax.extend import core
from jax.extend.core.primitives import custom_jvp_call_p, custom_vjp_call_p

# Nothing here outlives its use: JAX keeps a traced function beside what it has compiled for it.
_KNOWN: weakref.WeakValueDictionary[Hashable, core.ClosedJaxpr] = weakref.WeakValueDictionary()

# Parameters that hold derivatives' rules, which are other functions in each trace.
_RULES = {
    custom_jvp_call_p: {"jvp_jaxpr_fun"},
    custom_vjp_call_p: {"fwd_jaxpr_thunk", "bwd"},
}


def interned(param: Any, executed: bool) -> Any:
    """Replaces traced functions by equal ones that are still in use; other parameters stay.

    Two jaxprs are equal if their equations are: primitives, types, parameters, literal numbers, and
    which variable is used where. Parameters are compared as JAX compares them for what it compiles;
    constants, and functions, by identity. So what reads a number that has changed since, or calls
    another function, is not equal.

    Args:
      param: an equation's parameter: a jaxpr, several, or anything else.
      executed: whether the equation is executed and not differentiated; then rules of derivatives
        do not count.
    """
    seen: dict[int, core.ClosedJaxpr] = {}  # a function that is called twice is compared once

    def one(closed: core.ClosedJaxpr, owner: core.ClosedJaxpr | core.Jaxpr) -> core.ClosedJaxpr:
        if id(owner) not in seen:
            try:
                seen[id(owner)] = _KNOWN.setdefault((executed, key(closed)), closed)
            except TypeError:  # a parameter that cannot be compared
                seen[id(owner)] = closed
        return seen[id(owner)]

    def key(closed: core.ClosedJaxpr) -> Hashable:
        jaxpr = closed.jaxpr
        numbers: defaultdict[core.Var, int] = defaultdict(itertools.count().__next__)

        def atoms(of: Any) -> Hashable:
            return tuple(
                (atom.aval, np.asarray(atom.val).tobytes())
                if isinstance(atom, core.Literal)
                else (atom.aval, numbers[atom])
                for atom in of
            )

        def equation(eqn: core.JaxprEqn) -> Hashable:
            left_out = _RULES.get(eqn.primitive, set()) if executed else set()
            kept = {name: value for name, value in eqn.params.items() if name not in left_out}
            ends = atoms(eqn.invars), atoms(eqn.outvars)
            return eqn.primitive, *ends, part(kept), frozenset(eqn.effects), eqn.ctx

        begin = tuple(map(id, closed.consts)), atoms(jaxpr.constvars), atoms(jaxpr.invars)
        return *begin, tuple(map(equation, jaxpr.eqns)), atoms(jaxpr.outvars)

    def part(value: Any) -> Hashable:
        if isinstance(value, core.ClosedJaxpr):
            return one(value, value)
        if isinstance(value, core.Jaxpr):
            return one(core.ClosedJaxpr(value, ()), value)
        if isinstance(value, dict):
            return dict, tuple((name, part(value[name])) for name in sorted(value))
        if isinstance(value, (tuple, list)):
            return type(value), tuple(map(part, value))
        if isinstance(value, (float, complex)):
            return type(value), repr(value)  # 0 and -0 are equal
        return type(value), value

    if isinstance(param, core.ClosedJaxpr):
        return one(param, param)
    if type(param) in (tuple, list):
        return type(param)(interned(item, executed) for item in param)
    return param
