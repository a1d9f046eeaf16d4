"""Hessian-vector products."""

from __future__ import annotations

import chex
import jax
from jax.extend.core.primitives import custom_lin_p

from xsam_jax import _checks, _grad_fn, _linalg, _placement, _sums
from xsam_jax._gradients import GradFn, check_dependence
from xsam_jax._xla.channels_last import contains, evaluate

_NO_FORWARD_DERIVATIVE = (
    "grad_fn, or curvature_grad_fn where that is given, must be differentiable in forward mode, "
    "but something in it has no forward derivative: a kernel, a callback to the host or a foreign "
    "function, as in fused attention, or a jax.custom_vjp whose forward or backward rule calls a "
    "custom_vjp function itself. Measure the curvature of a gradient function without it; in a "
    "training step give that as curvature_grad_fn, or track the eigenvector without products (oja, "
    "subspace). A function of your own can have a jax.custom_jvp, and a rule can call the "
    "undecorated function"
)


def hvp(grad_fn: GradFn, params: chex.ArrayTree, v: chex.ArrayTree) -> chex.ArrayTree:
    """The Hessian at ``params`` times ``v``, by forward over reverse differentiation.

    About the time and the memory of two gradients; reverse over reverse costs three to four times
    as much time. The product is computed in the parameters' dtypes: bfloat16 gives about two
    digits, a float32 copy of the same parameters seven. Convolutions are fast inside loops and
    branches on CPU (`channels_last`).

    Differentiable in forward and reverse mode with respect to ``params``, ``v`` and what
    ``grad_fn`` closes over, if ``grad_fn`` is twice; in reverse mode its loops must have a fixed
    length.

    Args:
      grad_fn: ``params -> gradient`` of a scalar loss, a tree like ``params``.
      params: where the Hessian is taken, a tree of real floating-point arrays.
      v: tree like ``params``; its leaves are cast to the dtypes of ``params``.

    Returns:
      A tree like ``params``; leaves float32, or float64 if any leaf of ``params`` is.

    Raises:
      TypeError: a leaf of ``params`` is not real floating point, or something in ``grad_fn`` has no
        forward derivative: a kernel, a callback to the host or a foreign function, or a
        `jax.custom_vjp` whose forward or backward rule calls such a function again.
      ValueError: ``v`` or the gradient is not a tree like ``params``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from xsam_jax import curvature
      >>> grad_fn = jax.grad(lambda w: jnp.sum(w**3))
      >>> curvature.hvp(grad_fn, jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0]))
      Array([ 6., 12.], dtype=float32)
    """
    _checks.function("grad_fn", grad_fn, "params -> gradient")
    return hvp_of("grad_fn", _grad_fn.checked("grad_fn", grad_fn, params), params, v)


def hvp_of(name: str, grad_fn: GradFn, params: chex.ArrayTree, v: chex.ArrayTree) -> chex.ArrayTree:
    """The same for a function called ``name`` whose results are checked."""
    _checks.real("params", params)
    _checks.same_tree("v", v, params)
    _checks.real("v", v)

    def product(params: chex.ArrayTree, v: chex.ArrayTree) -> chex.ArrayTree:
        return jax.jvp(grad_fn, (params,), (v,))[1]

    v = _placement.shard_like(_linalg.cast_like(v, params), params)
    args = (params, _placement.varying_like(v, params))
    # Traced, not called: JAX finds some functions without a forward derivative when it compiles.
    try:
        closed, out_shape = jax.make_jaxpr(product, return_shape=True)(*args)
    except Exception as error:
        # A gradient taken in forward mode itself has the error without a second derivative.
        if "custom_vjp" in str(error) or _traces(grad_fn, params):
            raise TypeError(_NO_FORWARD_DERIVATIVE) from error
        raise
    if contains(closed.jaxpr, custom_lin_p):
        raise TypeError(_NO_FORWARD_DERIVATIVE)
    check_dependence(name, closed, params, skipped=len(jax.tree.leaves(params)))
    result = evaluate(closed, out_shape, args)
    return _linalg.cast(result, _sums.statistics_dtype(params))


def _traces(grad_fn: GradFn, params: chex.ArrayTree) -> bool:
    """Whether the gradient can be traced when no derivative of it is taken."""
    try:
        jax.eval_shape(grad_fn, params)
    except Exception:
        return False
    return True
