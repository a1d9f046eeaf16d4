"""The gradient of many batches in the memory of one."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax import lax

from xsam_jax import _checks, _linalg
from xsam_jax._xla.channels_last import channels_last, compiled_once
from xsam_jax.curvature._hvp import GradFn


def mean_grad_fn(
    loss_fn: Callable[[chex.ArrayTree, chex.ArrayTree], chex.Array], batches: chex.ArrayTree
) -> GradFn:
    """The gradient of the mean loss over several batches, one after the other.

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
