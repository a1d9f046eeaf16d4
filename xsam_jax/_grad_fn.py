"""The gradient function that a caller gives, with errors that show the way out."""

import inspect
from typing import Any

import chex
import jax

from xsam_jax import _checks, _trees
from xsam_jax._gradients import GradFn, has_masked

_MASKED_NOTE = (
    "The transformation stands inside optax.masked or optax.partition, so it hands {name} "
    "parameters with optax.MaskedNode in place of the others: give "
    "update(..., {name}=xsam_jax.masked_grad_fn({name}, params))"
)

_TRACED_NOTE = (
    "{name} is traced, also outside of jax.jit: it must be a pure function of arrays, and not the "
    "executable of an ahead-of-time compilation"
)
_NOT_GIVEN = (
    "{name} must be a function params -> gradient of the step's mini-batch, given as "
    "update(updates, state, params, {name}=...), got {got}"
)
_NOT_HANDED_ON = (
    ". Flax's TrainState.apply_gradients and some wrappers keep it to themselves: call "
    "state.tx.update(grads, state.opt_state, state.params, {name}=...), as the TrainState of "
    "docs/recipes/flax.md does. nnx.Optimizer.update(model, grads, {name}=...) hands it on"
)
_ARGUMENTS = (
    "{name} must take the parameters alone, {name}(params), so bind the batch: "
    "{name}=lambda params: jax.grad(loss_fn)(params, batch). That of optax.contrib.sam takes a "
    "step index as well, this one does not. Got: {error}"
)
_NO_MODEL = (
    "{name} must take parameters, here a {kind}, and make the model of them: by "
    "nnx.merge(graphdef, params, rest, copy=True), equinox.combine(params, static), or Linen's "
    "net.apply(params, x). For a loss of an nnx model xsam_jax.nnx_value_and_grad gives {name}. "
    "Got: {error}"
)


def given(name: str, grad_fn: Any) -> GradFn:
    """Raises unless it is a function."""
    if grad_fn is None:
        raise ValueError((_NOT_GIVEN + _NOT_HANDED_ON).format(name=name, got=None))
    if not callable(grad_fn):
        raise TypeError(_NOT_GIVEN.format(name=name, got=_trees.described(grad_fn)))
    function: GradFn = grad_fn
    return function


def checked(name: str, grad_fn: GradFn, params: chex.ArrayTree) -> GradFn:
    """Makes ``grad_fn`` check that it takes parameters alone, and gives a tree like ``params``."""

    def gradient(at: chex.ArrayTree) -> chex.ArrayTree:
        try:
            grads = grad_fn(at)
            _checks.same_tree(f"the result of {name}", grads, params)
            _checks.real(f"the result of {name}", grads)
        except Exception as error:
            meant = _meant(name, grad_fn, at, error)
            if has_masked(params):
                meant.add_note(_MASKED_NOTE.format(name=name))
            if isinstance(error, jax.errors.JAXTypeError) or "lowered and compiled" in str(error):
                meant.add_note(_TRACED_NOTE.format(name=name))
            if meant is error:
                raise
            raise meant from error
        return grads

    return gradient


def _meant(name: str, grad_fn: GradFn, at: chex.ArrayTree, error: Exception) -> Exception:
    """What an error says of how ``grad_fn`` was written, or else the error itself."""
    message = _ARGUMENTS if _wants_more(grad_fn, error) else None
    if message is None and _is_of_a_model(at, error):
        message = _NO_MODEL
    if message is None:
        return error
    kind = ValueError if isinstance(error, ValueError) else TypeError
    return kind(message.format(name=name, kind=type(at).__name__, error=error))


def _wants_more(grad_fn: GradFn, error: Exception) -> bool:
    """Whether a call with one argument failed, and not something in what was called."""
    if not isinstance(error, TypeError):
        return False
    if str(error).startswith("missing a required"):
        return True  # inspect.signature's words, which Flax NNX asks
    if "positional argument" not in str(error):
        return False
    try:
        inspect.signature(grad_fn).bind(None)
    except TypeError:
        return True
    except ValueError:
        pass  # it has no signature
    return False


def _is_of_a_model(at: chex.ArrayTree, error: Exception) -> bool:
    """Whether parameters were used as a model, or a model from elsewhere in their place."""
    text = str(error)
    if "trace level" in text and type(error).__module__.startswith(("builtins", "flax")):
        return True  # of variables of an nnx.Module
    if not isinstance(error, TypeError | AttributeError):
        return False
    if f"'{type(at).__name__}' object is not callable" in text or text.endswith(" in State"):
        return True
    # Equinox leaves None where a model has functions and settings.
    leaves = jax.tree.leaves(at, is_leaf=lambda leaf: leaf is None)
    return "'NoneType' object" in text and any(leaf is None for leaf in leaves)
