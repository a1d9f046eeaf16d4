"""Leading eigenvalues and eigenvectors of the Hessian."""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from xsam_jax import _checks, _sums
from xsam_jax._gradients import GradFn
from xsam_jax._xla.channels_last import compiled_once
from xsam_jax.curvature._hessian import flat_hessian
from xsam_jax.curvature._lanczos import eigh, row_norms, tridiagonalize

_ONCE = (
    "the values of curvature.top_eigenpairs have a first derivative only, and a second one is "
    "taken: hold with jax.lax.stop_gradient what is differentiated twice. In a training step whose "
    "loss has such a value, give a curvature_grad_fn without it, or track the eigenvector without "
    "products (oja, subspace)"
)


class Eigenpairs(NamedTuple):
    """The leading ``k`` eigenpairs of a Hessian, sorted from the leading one down.

    Attributes:
      values: float32 (float64 for float64 parameters) [k].
      vectors: A tree like the parameters, each leaf with a leading axis of length ``k``, dtype of
        ``values``. Orthonormal over all leaves together; the signs are arbitrary.
      residuals: [k], ``||H v - value v||``, dtype and units of ``values``. An eigenvalue of the
        Hessian lies within it of ``value``.
    """

    values: chex.Array
    vectors: chex.ArrayTree
    residuals: chex.Array


def top_eigenpairs(
    grad_fn: GradFn,
    params: chex.ArrayTree,
    k: int = 1,
    *,
    num_matvecs: int = 30,
    which: str = "LA",
    start: chex.ArrayTree | None = None,
    key: chex.PRNGKey,
) -> Eigenpairs:
    """Leading eigenpairs of the Hessian by Lanczos with full reorthogonalisation.

    Costs ``num_matvecs + k`` Hessian-vector products, and memory for ``num_matvecs`` vectors. The
    extreme eigenvalues converge first, the faster the farther they lie from the rest; the residuals
    tell how far each pair has come. Like every Krylov method from one start vector it finds the
    second copy of a multiple eigenvalue only after everything else of the spectrum.

    ``values`` are differentiable in forward and reverse mode with respect to ``params`` and what
    ``grad_fn`` closes over, for the price of ``k`` Hessian-vector products' derivatives:
    ``d value = v.T dH v`` with the vector held fixed (Hellmann and Feynman). That is the derivative
    of a converged simple eigenvalue. Copies of a multiple one have none each; their mean has, once
    ``k`` includes them all. A second derivative would need the vector's, and raises. ``vectors``,
    ``residuals`` and ``start`` are constants of differentiation, as after `jax.lax.stop_gradient`:
    their derivatives are 0.

    Args:
      grad_fn: Maps parameters to the gradient of a scalar loss.
      params: Where the Hessian is taken.
      k: Number of pairs, at most ``num_matvecs`` and at most the number of parameters.
      num_matvecs: Dimension of the Krylov space; reduced to the number of parameters if larger.
      which: "LA" for the largest eigenvalues, "LM" for those of largest magnitude.
      start: Tree like the parameters, the vector that the Krylov space grows from. A rough
        eigenvector, of fewer examples or of earlier parameters, saves products. By default, and
        where it is zero or not finite, it is random.
      key: Random key of the start vector.

    Returns:
      `Eigenpairs`; NaN only if the Hessian's products are.

    Raises:
      TypeError: ``k`` or ``num_matvecs`` is not an integer, ``key`` is no random key, or `hvp` does
        not take ``grad_fn``, or ``values`` are differentiated twice.
      ValueError: ``k``, ``num_matvecs`` or ``which`` is out of range, ``start`` is no tree like the
        parameters, or these have no elements.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from xsam_jax import curvature
      >>> curvatures = jnp.array([-3.0, 1.0, 2.0])
      >>> grad_fn = jax.grad(lambda w: jnp.sum(curvatures * w**2) / 2)
      >>> w, key = jnp.ones(3), jax.random.key(0)
      >>> curvature.top_eigenpairs(grad_fn, w, k=2, key=key).values.round(4)
      Array([2., 1.], dtype=float32)
      >>> curvature.top_eigenpairs(grad_fn, w, which="LM", key=key).values.round(4)
      Array([-3.], dtype=float32)
    """
    _checks.integer("k", k, 1)
    _checks.integer("num_matvecs", num_matvecs, 1)
    _checks.choice("which", which, ("LA", "LM"))
    _checks.key("key", key)
    if start is not None:
        _checks.real("start", start)
        _checks.same_tree("start", start, params)
        start = lax.stop_gradient(start)
    return compiled_once(
        lambda: _top_eigenpairs(grad_fn, params, k, num_matvecs, which, start, key)
    )


def _top_eigenpairs(
    grad_fn: GradFn,
    params: chex.ArrayTree,
    k: int,
    num_matvecs: int,
    which: str,
    start: chex.ArrayTree | None,
    key: chex.PRNGKey,
) -> Eigenpairs:
    hessian = flat_hessian(grad_fn, params)
    depth = min(num_matvecs, hessian.size)
    if k > depth:
        raise ValueError(
            f"k must be at most num_matvecs = {num_matvecs} and at most the number of parameters = "
            f"{hessian.size}, got {k}"
        )

    def leading(values: chex.Array) -> chex.Array:
        return jnp.argsort(-jnp.abs(values) if which == "LM" else -values)[:k]

    # The basis must stay orthogonal: no TF32 or bfloat16 multiplications.
    with jax.default_matmul_precision("highest"):
        basis, tridiagonal = tridiagonalize(
            hessian.fixed(), depth, key, None if start is None else hessian.flatten(start)
        )
        ritz_values, coefficients = eigh(tridiagonal)
        vectors = coefficients[:, leading(ritz_values)].T @ basis
        # Rayleigh-Ritz with the products themselves: values and residuals do not trust the
        # tridiagonal matrix.
        products = lax.map(hessian.matvec, vectors)
        projected = lax.map(lambda vector: _sums.inner_products(products, vector[None]), vectors)
        symmetric = projected / 2 + projected.T / 2  # the sum may overflow
        values, rotation = eigh(lax.stop_gradient(symmetric))
        order = leading(values)
        values, rotation = values[order], rotation[:, order].T
        vectors, products = rotation @ vectors, rotation @ lax.stop_gradient(products)
        # Hellmann and Feynman: d value = v.T dH v. The derivative of `eigh` is not a number where
        # any two eigenvalues are equal.
        quotients = jnp.sum((rotation @ symmetric) * rotation, axis=1)
    residuals = row_norms(products - values[:, None] * vectors)
    values += _once(quotients) - lax.stop_gradient(quotients)
    return Eigenpairs(values, jax.vmap(hessian.unflatten)(vectors), residuals)


@jax.custom_jvp
def _once(x: chex.Array) -> chex.Array:
    """Returns ``x``, and raises where its derivative is differentiated again."""
    return x


@_once.defjvp
def _first(primals: Any, tangents: Any) -> Any:
    return *primals, _one(*primals) * tangents[0]


@jax.custom_jvp
def _one(x: chex.Array) -> chex.Array:
    return jnp.ones_like(x)


@_one.defjvp
def _raise(primals: Any, tangents: Any) -> Any:
    raise TypeError(_ONCE)
