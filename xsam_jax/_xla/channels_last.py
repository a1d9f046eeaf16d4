"""Rewrites functions so that their convolutions are channels-last, in loops and branches too.

A function is traced, and its equations are evaluated again with another convolution.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import chex
import jax
import jax.numpy as jnp
from jax.extend import core, source_info_util
from jax.extend.core.primitives import conv_general_dilated_p, remat_p

from xsam_jax import _checks, _placement
from xsam_jax._xla.convolution import convolve
from xsam_jax._xla.interned import interned

# A compiled function that is called outside of `jax.jit` must be the same object in every call, by
# which JAX finds what it has compiled. In a mesh it is another.
_REWRITTEN: weakref.WeakKeyDictionary[
    core.ClosedJaxpr, dict[jax.sharding.AbstractMesh, core.ClosedJaxpr]
] = weakref.WeakKeyDictionary()

P = ParamSpec("P")
T = TypeVar("T")


def channels_last(fn: Callable[P, T]) -> Callable[P, T]:
    """Returns ``fn`` with every convolution computed channels-last on CPU.

    For a function that computes gradients of a convolutional network, above all one that is called
    inside `lax.scan`, `lax.cond` or another loop, such as a training step scanned over an epoch.
    There it takes far less time, and elsewhere less time and memory too (docs/cost.md).

    The result is bit-identical to that of the function outside of all loops but for those that
    round differently: grouped convolutions; those that sum 6,144 terms or more, such as kernels'
    gradients of a batch of images; windows of one pixel, and those larger than their image, such as
    3x3 on 2x2 pixels, which are matrix products here and take a tenth of the time or less; and 3x3
    windows of stride one on many channels, which have Winograd's form and take two thirds of it or
    less (there a number that is not finite also makes its neighbours so, of 4x4 pixels).

    On GPU and TPU the program stays as it was. It reaches convolutions inside the function's own
    loops, branches, ``jit``, ``jax.shard_map``, ``jax.checkpoint`` and custom derivatives. Apply it
    outside of differentiation: to the function that computes a gradient, not to the loss, whose
    derivative has convolutions of its own.

    The transformations of this package apply it to the gradient functions they are given.

    Args:
      fn: a function of pytrees of arrays that returns a pytree of arrays.

    Returns:
      A function with the signature of ``fn``.

    Raises:
      TypeError: ``fn`` is not a function.

    Example:
      >>> import jax, jax.numpy as jnp, xsam_jax
      >>> def loss(kernel, image):
      ...     return jnp.sum(jax.lax.conv(image, kernel, (1, 1), "SAME") ** 2)
      >>> def step(kernel, image):
      ...     return kernel - 1e-3 * jax.grad(loss)(kernel, image), loss(kernel, image)
      >>> kernel, images = jnp.ones((4, 3, 3, 3)), jnp.ones((10, 2, 3, 8, 8))
      >>> kernel, losses = jax.lax.scan(xsam_jax.channels_last(step), kernel, images)
    """
    _checks.function("fn", fn, "of pytrees of arrays")

    @functools.wraps(fn)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        closed, out_shape = jax.make_jaxpr(fn, return_shape=True)(*args, **kwargs)
        result: T = evaluate(closed, out_shape, (args, kwargs))
        return result

    return wrapped


def compiled_once(compute: Callable[[], T]) -> T:
    """Calls ``compute``; outside of `jax.jit` its loops are compiled in the first call only."""
    return compute() if _placement.compiling() else channels_last(compute)()


def evaluate(closed: core.ClosedJaxpr, out_shape: chex.ArrayTree, args: chex.ArrayTree) -> Any:
    """Evaluates a traced function channels-last; ``out_shape`` has the tree of its result."""
    outputs = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
    arrays = map(_array, outputs)
    return jax.tree.unflatten(jax.tree.structure(out_shape), arrays)


def contains(jaxpr: core.Jaxpr, primitive: core.Primitive) -> bool:
    """Whether ``primitive`` occurs in ``jaxpr`` or in a jaxpr inside of it."""
    known: set[int] = set()  # a function that is called twice is looked through once

    def found(jaxpr: core.Jaxpr) -> bool:
        if id(jaxpr) in known:
            return False
        known.add(id(jaxpr))
        return any(
            eqn.primitive is primitive or any(map(found, core.jaxprs_in_params(eqn.params)))
            for eqn in jaxpr.eqns
        )

    return found(jaxpr)


def _evaluate(jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Evaluates ``jaxpr`` with its convolutions, and those of inner jaxprs, channels-last."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for eqn, last_used in zip(jaxpr.eqns, _last_used(jaxpr), strict=True):
        with _as_traced(eqn):
            outputs = _bind(eqn, [read(atom) for atom in eqn.invars])
        outputs = outputs if eqn.primitive.multiple_results else [outputs]
        values.update(zip(eqn.outvars, outputs, strict=True))
        # Outside of `jax.jit` these are arrays, whose memory the next equations can have.
        for var in last_used:
            del values[var]
    return [read(atom) for atom in jaxpr.outvars]


def _array(value: Any) -> Any:
    """Turns a result into an array: constants and arguments of a traced function may not be one."""
    # Of the dtype of an integer's tangent there are no arrays.
    if isinstance(value, jax.Array) or getattr(value, "dtype", None) == jax.dtypes.float0:
        return value
    return jnp.asarray(value)


def _last_used(jaxpr: core.Jaxpr) -> list[set[core.Var]]:
    """Finds, for each equation, the variables that nothing after it reads."""

    def variables(atoms: Sequence[Any]) -> set[core.Var]:
        return {atom for atom in atoms if not isinstance(atom, core.Literal)}

    used, result = variables(jaxpr.outvars), []
    for eqn in reversed(jaxpr.eqns):
        result.append(variables([*eqn.invars, *eqn.outvars]) - used)
        used |= result[-1]
    return result[::-1]


@contextlib.contextmanager
def _as_traced(eqn: core.JaxprEqn) -> Iterator[None]:
    """Restores the names, the line of source and the options that an equation was traced under."""
    info = eqn.source_info
    names = source_info_util.current_name_stack() + info.name_stack
    with source_info_util.user_context(info.traceback, name_stack=names), eqn.ctx.manager:
        yield


def _bind(eqn: core.JaxprEqn, operands: Sequence[Any]) -> Any:
    """Evaluates one equation."""
    if eqn.primitive is conv_general_dilated_p:
        return convolve(*operands, **eqn.params)
    # JAX does not export this primitive.
    if eqn.primitive.name == "shard_map" and contains(eqn.params["jaxpr"], conv_general_dilated_p):
        return _shard_map(operands, **eqn.params)
    if eqn.primitive is remat_p and not _placement.compiling():
        # It is executed one by one, and after a derivative it is another function in every step.
        return _evaluate(eqn.params["jaxpr"], (), operands)
    params = eqn.params
    if not _placement.compiling():
        # Where no operand is traced, nothing is differentiated.
        executed = not any(isinstance(operand, jax.core.Tracer) for operand in operands)
        params = {name: interned(value, executed) for name, value in params.items()}
    params = {name: _rewrite(value) for name, value in params.items()}
    return eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(params))


def _shard_map(
    operands: Sequence[Any], *, jaxpr: core.Jaxpr, newly_manual_axes: frozenset[str], **params: Any
) -> tuple[Any, ...]:
    """Evaluates a `jax.shard_map`: it is traced anew, where the collectives' axes have names."""

    def evaluated(*args: Any) -> tuple[Any, ...]:
        return tuple(_evaluate(jaxpr, (), args))

    outputs: tuple[Any, ...] = jax.shard_map(evaluated, axis_names=newly_manual_axes, **params)(
        *operands
    )
    return outputs


def _rewrite(param: Any) -> Any:
    """Rewrites a parameter of an equation that is a jaxpr or a sequence of them (branches)."""
    if isinstance(param, core.ClosedJaxpr):
        return _rewrite_closed(param)
    if isinstance(param, core.Jaxpr):
        return _rewrite_closed(core.ClosedJaxpr(param, ())).jaxpr
    if type(param) in (tuple, list):
        return type(param)(_rewrite(item) for item in param)
    return param


def _rewrite_closed(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    if not contains(closed.jaxpr, conv_general_dilated_p):
        return closed
    rewritten = _REWRITTEN.setdefault(closed, {})
    mesh = jax.sharding.get_abstract_mesh()
    if mesh not in rewritten:
        evaluated = functools.partial(_evaluate, closed.jaxpr, closed.consts)
        rewritten[mesh] = jax.make_jaxpr(lambda *args: evaluated(args))(*closed.in_avals)
    return rewritten[mesh]
