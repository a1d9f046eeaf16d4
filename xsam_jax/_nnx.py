"""The two gradients of a step for a loss of a Flax NNX model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import chex
import jax

from xsam_jax import _checks
from xsam_jax._gradients import GradFn


def nnx_value_and_grad(
    loss_fn: Callable[..., Any], *, argnums: Any = 0, has_aux: bool = False
) -> Callable[..., tuple[Any, Any, GradFn]]:
    """Value and gradient of a Flax NNX model's loss, and the ``grad_fn`` of the same step.

    It stands in the place of `flax.nnx.value_and_grad`. The first pass is Flax's own: random
    counters and BatchNorm's statistics, in the model and in what else is passed, go on by one step.
    Every pass of ``grad_fn`` begins from copies of what they were before it. So it has the first
    pass's dropout masks, and nothing of it stays. (Flax is imported when this is called.)

    Args:
      loss_fn: ``(model, ...) -> loss``, or ``(loss, auxiliary values)`` with ``has_aux``.
      argnums: which argument is differentiated, with respect to its `nnx.Param`; an
        `nnx.DiffState` names other variables. Give `nnx.Optimizer` the same as its ``wrt``.
      has_aux: whether ``loss_fn`` returns auxiliary values beside the loss.

    Returns:
      A function with the arguments of ``loss_fn`` that returns ``(value, grads, grad_fn)``.
      ``value`` and ``grads`` are those of `nnx.value_and_grad`, and ``grad_fn`` is for `update`
      of this step: ``grad_fn(params)`` is the gradient at ``params``, a tree like ``params``, which
      are variables of the model or some of them: an `nnx.State`, or pure dicts.

    Raises:
      TypeError, ValueError: ``loss_fn`` is no function, ``argnums`` not one argument, or
        ``has_aux`` no bool.

    Example:
      >>> import jax.numpy as jnp, optax, xsam_jax
      >>> from flax import nnx
      >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
      >>> method = optax.chain(xsam_jax.sam(), optax.sgd(0.1))
      >>> optimizer = nnx.Optimizer(model, method, wrt=nnx.Param)
      >>> @nnx.jit
      ... def step(model, optimizer, x, y):
      ...     loss_fn = lambda model: jnp.mean((model(x) - y) ** 2)
      ...     loss, grads, grad_fn = xsam_jax.nnx_value_and_grad(loss_fn)(model)
      ...     optimizer.update(model, grads, grad_fn=grad_fn)
      ...     return loss
      >>> losses = [step(model, optimizer, jnp.ones((4, 2)), jnp.zeros((4, 1))) for _ in range(2)]
      >>> bool(losses[1] < losses[0])
      True
    """
    from flax import nnx

    _checks.function("loss_fn", loss_fn, "(model, ...) -> loss")
    _checks.boolean("has_aux", has_aux)
    argnum = argnums.argnum if isinstance(argnums, nnx.DiffState) else argnums
    if isinstance(argnum, tuple | list):
        raise TypeError(
            "argnums must be one integer or nnx.DiffState: several models can be one, as "
            f"nnx.Dict(a=..., b=...) is, got {argnum!r}"
        )
    _checks.integer("argnums", argnum, low=0)
    first = nnx.value_and_grad(loss_fn, argnums=argnums, has_aux=has_aux)

    def value_and_grad(*args: Any, **kwargs: Any) -> tuple[Any, Any, GradFn]:
        bound = inspect.signature(loss_fn).bind(*args, **kwargs)
        # A split shares its variables with the model, which the first pass changes in place.
        graphdef, before = nnx.split(nnx.clone((bound.args, bound.kwargs)))
        value, grads = first(*args, **kwargs)

        def loss_at(params: chex.ArrayTree) -> chex.Array:
            args, kwargs = nnx.merge(graphdef, before, copy=True)
            nnx.update(args[argnum], params)
            result = loss_fn(*args, **kwargs)
            loss: chex.Array = result[0] if has_aux else result
            return loss

        return value, grads, jax.grad(loss_at)

    return value_and_grad
