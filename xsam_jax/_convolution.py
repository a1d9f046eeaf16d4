"""Convolutions that are fast on CPU, and stay fast inside control flow.

XLA:CPU has a fast kernel for channels-last convolutions, and transposes other layouts into that one
only in the entry computation. A convolution's *gradient* arrives in other layouts, so inside
``lax.cond``, ``lax.while_loop`` and ``lax.scan`` it falls to a slow generic loop
(https://github.com/jax-ml/jax/issues/12868). Explicit transposes put the fast layout into the
program itself, where it holds in every computation.

Outside of control flow as well, a kernel's gradient is slow: XLA:CPU adds up its long sums, over
all images and pixels, on one core, and out of the caches. They are summed in parts.
"""

import contextlib
import functools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core, source_info_util
from jax.extend.core.primitives import conv_general_dilated_p, remat_p

from xsam_jax import _checks, _linalg

_LONG = 3072  # terms of a sum, which fit into a core's cache

# A compiled function that is called outside of `jax.jit` must be the same object in every call, by
# which JAX finds what it has compiled. In a mesh it is another, see `_parts`.
_REWRITTEN: weakref.WeakKeyDictionary[
    core.ClosedJaxpr, dict[jax.sharding.AbstractMesh, core.ClosedJaxpr]
] = weakref.WeakKeyDictionary()

P = ParamSpec("P")
T = TypeVar("T")


def channels_last(fn: Callable[P, T]) -> Callable[P, T]:
    """Returns ``fn`` with every convolution computed channels-last on CPU.

    For a function that computes gradients of a convolutional network, above all one that is called
    inside `lax.scan`, `lax.cond` or another loop, such as a training step scanned over an epoch. On
    two cores a step of SGD takes 0.61 of its time on a six-layer CNN and 0.75 on ResNet-18
    (docs/cost.md), and inside a loop far less.

    The result is bit-identical to that of the function outside of all loops but for grouped
    convolutions and for those that sum 6,144 terms or more, such as kernels' gradients of a batch
    of images, which round differently. On GPU and TPU the program stays as it was. It reaches
    convolutions inside the function's own loops, branches, ``jit``, ``jax.shard_map``,
    ``jax.checkpoint`` and custom derivatives. Apply it outside of differentiation: to the function
    that computes a gradient, not to the loss, whose derivative has convolutions of its own.

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


def evaluate(closed: core.ClosedJaxpr, out_shape: chex.ArrayTree, args: chex.ArrayTree) -> Any:
    """Evaluates a traced function channels-last; ``out_shape`` has the tree of its result."""
    outputs = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(out_shape), outputs)


def contains(jaxpr: core.Jaxpr, primitive: core.Primitive) -> bool:
    """Whether ``primitive`` occurs in ``jaxpr`` or in a jaxpr inside of it."""
    return any(
        eqn.primitive is primitive
        or any(contains(inner, primitive) for inner in core.jaxprs_in_params(eqn.params))
        for eqn in jaxpr.eqns
    )


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


def _last_used(jaxpr: core.Jaxpr) -> list[set[core.Var]]:
    """For each equation the variables that are of no use after it."""

    def variables(atoms: Sequence[Any]) -> set[core.Var]:
        return {atom for atom in atoms if not isinstance(atom, core.Literal)}

    used, result = variables(jaxpr.outvars), []
    for eqn in reversed(jaxpr.eqns):
        result.append(variables([*eqn.invars, *eqn.outvars]) - used)
        used |= result[-1]
    return result[::-1]


@contextlib.contextmanager
def _as_traced(eqn: core.JaxprEqn) -> Iterator[None]:
    """Under the names, the line of source and the options that an equation was traced under."""
    info = eqn.source_info
    names = source_info_util.current_name_stack() + info.name_stack
    with source_info_util.user_context(info.traceback, name_stack=names), eqn.ctx.manager:
        yield


def _bind(eqn: core.JaxprEqn, operands: Sequence[Any]) -> Any:
    """An equation's outputs."""
    if eqn.primitive is conv_general_dilated_p:
        return _convolve(*operands, **eqn.params)
    # JAX does not export this primitive.
    if eqn.primitive.name == "shard_map" and contains(eqn.params["jaxpr"], conv_general_dilated_p):
        return _shard_map(operands, **eqn.params)
    if eqn.primitive is remat_p and not _linalg.compiling():
        # It is executed one by one, and after a derivative it is another function in every step.
        return _evaluate(eqn.params["jaxpr"], (), operands)
    params = {name: _rewrite(value) for name, value in eqn.params.items()}
    return eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(params))


def _convolve(
    lhs: chex.Array, rhs: chex.Array, *, dimension_numbers: lax.ConvDimensionNumbers, **params: Any
) -> chex.Array:
    """The convolution with explicit transposes around it, in parts, on CPU; as it was elsewhere."""
    batch, features, *space = dimension_numbers.lhs_spec
    out_features, in_features, *kernel_space = dimension_numbers.rhs_spec
    out_batch, out_channels, *out_space = dimension_numbers.out_spec
    n = len(space)
    nhwc, hwio = (0, n + 1, *range(1, n + 1)), (n + 1, n, *range(n))
    fast = lax.ConvDimensionNumbers(lhs_spec=nhwc, rhs_spec=hwio, out_spec=nhwc)
    convolve = functools.partial(conv_general_dilated_p.bind, **params)
    original = functools.partial(convolve, dimension_numbers=dimension_numbers)
    # Outside of `jax.jit` each operation is an entry computation; a loop would be compiled anew.
    if dimension_numbers == fast or not _linalg.compiling():
        return original(lhs, rhs)

    def fast_layout(lhs: chex.Array, rhs: chex.Array) -> chex.Array:
        lhs = lax.transpose(lhs, (batch, *space, features))
        rhs = lax.transpose(rhs, (*kernel_space, in_features, out_features))
        return convolve(lhs, rhs, dimension_numbers=fast)

    def transposed(lhs: chex.Array, rhs: chex.Array) -> chex.Array:
        terms = math.prod(rhs.shape[axis] for axis in (in_features, *kernel_space))
        parts = _parts(terms, lhs.shape[features], **params)
        if parts == 1:
            out = fast_layout(lhs, rhs)
        else:
            pieces = _split(lhs, features, parts), _split(rhs, in_features, parts)
            out = _in_parts(fast_layout, *pieces)
        return lax.transpose(out, np.argsort((out_batch, *out_space, out_channels)))

    return lax.platform_dependent(lhs, rhs, cpu=transposed, default=original)


def _parts(
    terms: int, features: int, *, feature_group_count: int, batch_group_count: int, **_: Any
) -> int:
    """In how many parts to compute a convolution that sums so many terms.

    Those of a kernel's gradient are the images, its input's feature axis, times their pixels, its
    window. In parts that fit into the caches it takes a third to a fifth of the time.
    """
    parts = 1
    # Not in a mesh, where images may lie on different devices, nor where their number is unknown.
    known = isinstance(terms, int) and jax.sharding.get_abstract_mesh().empty
    if known and feature_group_count == batch_group_count == 1:
        while terms >= 2 * parts * _LONG and features % (2 * parts) == 0:
            parts *= 2
    return parts


def _split(array: chex.Array, axis: int, parts: int) -> chex.Array:
    shape = *array.shape[:axis], parts, array.shape[axis] // parts, *array.shape[axis + 1 :]
    return jnp.moveaxis(array.reshape(shape), axis, 0)


def _in_parts(
    product: Callable[[chex.Array, chex.Array], chex.Array], lhs: chex.Array, rhs: chex.Array
) -> chex.Array:
    """``product(lhs[0], rhs[0]) + product(lhs[1], rhs[1]) + ...``."""
    out = jax.eval_shape(product, lhs[0], rhs[0])
    # What has fewer digits than float32 is added up in float32.
    floating = jnp.issubdtype(out.dtype, jnp.floating)
    dtype = _linalg.statistics_dtype(out) if floating else out.dtype
    total, _ = lax.scan(
        lambda total, pair: (total + product(*pair).astype(dtype), None),
        jnp.zeros(out.shape, dtype),
        (lhs, rhs),
        unroll=2,  # one for each of two cores
    )
    return total.astype(out.dtype)


def _shard_map(
    operands: Sequence[Any], *, jaxpr: core.Jaxpr, newly_manual_axes: frozenset[str], **params: Any
) -> tuple[Any, ...]:
    """`jax.shard_map` of the rewritten function, traced where the collectives' axes have names."""

    def evaluated(*args: Any) -> tuple[Any, ...]:
        return tuple(_evaluate(jaxpr, (), args))

    outputs: tuple[Any, ...] = jax.shard_map(evaluated, axis_names=newly_manual_axes, **params)(
        *operands
    )
    return outputs


def _rewrite(param: Any) -> Any:
    """Rewrites an equation's parameter where it is a jaxpr or a sequence of them (branches)."""
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
