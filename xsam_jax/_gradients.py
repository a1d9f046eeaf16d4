"""Gradient functions: of several batches, of masked parameters, and a check of what they read."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr

from xsam_jax import _checks, _linalg
from xsam_jax._xla.channels_last import channels_last, compiled_once

GradFn: TypeAlias = Callable[[chex.ArrayTree], chex.ArrayTree]
"""Parameters -> gradient of a scalar loss, a tree like the parameters."""

_NO_DEPENDENCE = "{name} does not depend on its argument"
_AT_THE_ARGUMENT = "Take the gradient at the argument: {name}=lambda p: jax.grad(loss)(p)"


def mean_grad_fn(
    loss_fn: Callable[[chex.ArrayTree, chex.ArrayTree], chex.Array], batches: chex.ArrayTree
) -> GradFn:
    """Makes the gradient function of the mean loss over several batches, one after the other.

    For the ``grad_fn`` of a step whose gradient is accumulated over micro-batches, and for the
    curvature of a whole data set. Hessian-vector products through it need the memory of one batch
    too. Batches have equal weights, so with batches of one size the mean is that of the examples.

    The gradient is differentiable in forward and reverse mode with respect to ``params``,
    ``batches`` and what ``loss_fn`` closes over. In forward mode, which `curvature` takes, it is in
    the memory of one batch; reverse mode keeps what each batch needs.

    Outside of `jax.jit` the loop is compiled in the first call and found again in the next ones, as
    long as the loss computes the same.

    Args:
      loss_fn: ``(params, batch) -> scalar loss``.
      batches: tree of arrays with a common leading axis of batches, of length >= 1.

    Returns:
      ``params -> gradient``, a tree like ``params`` with its dtypes; the sum is float32, or float64
      for float64 parameters, and right to a few roundings of it however many batches there are.

    Raises:
      TypeError: ``loss_fn`` is not a function, or ``batches`` holds something that is no array; or,
        when the gradient is taken, a parameter is not real and floating-point.
      ValueError: ``batches`` has no arrays, or leading axes that differ or are empty; or, when the
        gradient is taken, the loss is not a scalar.

    Example:
      >>> import jax.numpy as jnp, xsam_jax
      >>> loss_fn = lambda w, x: jnp.mean((w - x) ** 2)
      >>> grad_fn = xsam_jax.mean_grad_fn(loss_fn, jnp.arange(6.0).reshape(3, 2))
      >>> grad_fn(jnp.array(0.0))
      Array(-5., dtype=float32)
    """
    _checks.function("loss_fn", loss_fn, "(params, batch) -> loss")
    if not all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(batches)):
        raise TypeError(f"batches must be arrays, got {batches!r}")
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batches)]
    lengths = {shape[0] if shape else 0 for shape in shapes}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"batches must be arrays with a common leading axis of length >= 1, got shapes {shapes}"
        )
    (count,) = lengths

    def scalar_loss(params: chex.ArrayTree, batch: chex.ArrayTree) -> chex.Array:
        try:
            value = loss_fn(params, batch)
        except TypeError as error:
            if "positional argument" in str(error):
                error.add_note("loss_fn is called as loss_fn(params, batch): a batch is one tree")
            raise
        if not jax.tree_util.all_leaves([value]) or jnp.shape(value) != ():
            shapes = jax.tree.map(jnp.shape, value)
            raise ValueError(f"loss_fn must return a scalar and nothing beside it, got {shapes}")
        return value

    def grad_fn(params: chex.ArrayTree) -> chex.ArrayTree:
        _checks.real("params", params)

        def add(
            carry: tuple[chex.ArrayTree, chex.ArrayTree], batch: chex.ArrayTree
        ) -> tuple[tuple[chex.ArrayTree, chex.ArrayTree], None]:
            # Kahan's sum: what the last addition rounded away is made up for in this one, so that
            # the error does not grow with the number of batches.
            total, excess = carry
            grads = channels_last(jax.grad(scalar_loss))(params, batch)
            missing = _linalg.combine((1, grads), (-1, excess))
            new = _linalg.combine((1, total), (1, missing))
            excess = _linalg.combine((1, _linalg.combine((1, new), (-1, total))), (-1, missing))
            return (_linalg.cast_like(new, total), _linalg.cast_like(excess, total)), None

        def mean() -> chex.ArrayTree:
            zeros = _linalg.zeros_like(params)
            (total, _), _ = lax.scan(add, (zeros, zeros), batches)
            return _linalg.cast_like(_linalg.scale(1 / count, total), params)

        return compiled_once(mean)

    return grad_fn


def masked_grad_fn(grad_fn: GradFn, params: chex.ArrayTree) -> GradFn:
    """Makes ``grad_fn`` accept the partial trees of `optax.masked` and `optax.partition`.

    Inside of them a method perturbs only its own leaves, and its norms count only those. It asks
    for the gradient at a tree in which the other leaves are `optax.MaskedNode`; here these come
    from ``params``, and the gradient is masked in the same way.

    Args:
      grad_fn: ``params -> gradient`` on whole trees.
      params: the step's parameters, a whole tree.

    Returns:
      ``partial tree -> partial gradient``.

    Raises:
      TypeError: ``grad_fn`` is not a function.

    Example:
      >>> import jax, jax.numpy as jnp, optax, xsam_jax
      >>> w = {"kernel": jnp.ones(2), "bias": jnp.ones(2)}
      >>> grad_fn = jax.grad(lambda w: jnp.sum(w["kernel"] ** 2 * w["bias"]))
      >>> tx = optax.masked(xsam_jax.sam(rho=1.0), {"kernel": True, "bias": False})
      >>> updates, _ = tx.update(
      ...     grad_fn(w), tx.init(w), w, grad_fn=xsam_jax.masked_grad_fn(grad_fn, w))
      >>> updates["bias"]  # the plain gradient
      Array([1., 1.], dtype=float32)
    """
    _checks.function("grad_fn", grad_fn, "params -> gradient")

    def partial_grad_fn(partial: chex.ArrayTree) -> chex.ArrayTree:
        def merge(leaf: Any, whole: chex.ArrayTree) -> chex.ArrayTree:
            return whole if _is_masked(leaf) else leaf

        def mask(leaf: Any, gradient: chex.ArrayTree) -> chex.ArrayTree:
            return leaf if _is_masked(leaf) else gradient

        gradient = grad_fn(jax.tree.map(merge, partial, params, is_leaf=_is_masked))
        return jax.tree.map(mask, partial, gradient, is_leaf=_is_masked)

    return partial_grad_fn


def has_masked(tree: chex.ArrayTree) -> bool:
    """Whether `optax.masked` has taken leaves out of ``tree``."""
    return any(_is_masked(leaf) for leaf in jax.tree.leaves(tree, is_leaf=_is_masked))


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)


def check_dependence(
    name: str, closed: core.ClosedJaxpr, params: chex.ArrayTree, skipped: int = 0
) -> None:
    """Raises or warns where no result of a traced function depends on its arguments.

    ``grad_fn=lambda p: jax.grad(loss)(params)`` runs without an error, and SAM with it is plain
    gradient descent. The traced program shows it.

    Args:
      name: of the function.
      closed: the function.
      params: the step's parameters. A function that makes its result of these, and nothing of its
        argument, is wrong, which is an error. Otherwise its result may be a constant, as the
        gradient of a linear loss is, or of parameters from elsewhere, which is a warning.
      skipped: so many of the first arguments do not count.
    """
    arguments = closed.jaxpr.invars[skipped:]
    needed, used = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    if any(used[skipped:]) or not any(var.aval.size for var in arguments):
        return
    # A derivative that is zero needs nothing of what the function does.
    variables = _read(closed.jaxpr if skipped else needed)
    constants = zip(closed.jaxpr.constvars, closed.consts, strict=True)
    read: set[Any] = {id(constant) for var, constant in constants if id(var) in variables}
    if _read(closed.jaxpr, whole=False) & set(map(id, arguments)):
        read = set()  # a linear loss may be made of params too
    what, way_out = _NO_DEPENDENCE.format(name=name), _AT_THE_ARGUMENT.format(name=name)
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


def _read(jaxpr: core.Jaxpr, whole: bool = True) -> set[Any]:
    """Collects what equations read, or only those equations that call no other function."""
    eqns = [eqn for eqn in jaxpr.eqns if whole or not any(core.jaxprs_in_params(eqn.params))]
    return {id(atom) for eqn in eqns for atom in eqn.invars}
