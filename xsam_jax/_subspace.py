"""Rayleigh-Ritz in a plane that recursive least squares keep near the dominant eigenvectors."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from xsam_jax import _checks, _linalg
from xsam_jax._eigenvector import Eigenpair, Tracker, free_product, from_gradients, unknown
from xsam_jax._two_gradients import Descent


class SubspaceMemory(NamedTuple):
    """What `subspace` keeps beside the eigenvector ``v``; the plane is ``U = [v, second]``.

    Attributes:
      second: tree like the parameters and of the eigenvector's dtype, of norm one and orthogonal to
        the eigenvector, or zero while nothing is known.
      responses: ``R`` with ``U R`` the part in the plane of the average of ``h (U'x)'``, [2, 2].
      covariance: ``C``, the average of ``(U'x) (U'x)'``, [2, 2].
    """

    second: chex.ArrayTree
    responses: chex.Array
    covariance: chex.Array


def subspace(decay: float = 0.98, ridge: float = 0.3) -> Tracker:
    """Follows the two leading eigenvectors without any Hessian-vector product.

    As for `oja`, SAM's two gradients give a product for free: with ``x = e / ||e||``,
    ``(g_adv - g) / ||e|| = Hx + O(||e||)``, and ``h`` is its direction. Each is a noisy sample, of
    one mini-batch and of the one direction of its gradient. Oja's rule forgets them at its rate;
    this tracker fits them. On the plane ``U`` of two orthonormal vectors the least-squares fit of
    ``h = M U'x`` over all steps, each of weight ``decay`` times that of the next, is ``M = N /
    C``, with the averages ``N`` of ``h (U'x)'`` and ``C`` of ``(U'x)(U'x)'``. ``M`` stands for ``H
    U``, so its span is one step of a block power iteration, and the symmetric part of the fitted
    operator on it gives, by Rayleigh-Ritz, the order of the two vectors: the first is the
    eigenvector of the largest eigenvalue (the largest, not the one of largest magnitude). Of ``N``
    only the part in the new plane is kept. So a step is::

        N = decay U R + (1 - decay) h (U'x)'      C <- decay C + (1 - decay) (U'x)(U'x)'
        M = N (C + ridge tr(C)/2 I)^-1
        U+ = orth(M), rotated to diagonalise the symmetric part of U+'M (U'U+)
        R = U+'N (U'U+)                           C <- (U'U+)'C (U'U+)

    Two vectors and not one, because while the two leading eigenvalues are close or cross, one
    vector comes to lie between their eigenvectors.

    Everything but the two new vectors follows from the inner products of ``v``, the second vector,
    ``h`` and ``x``: a step costs nine of them, and the state one more copy of the parameters.

    Both gradients must be of the same loss: put the method first in the chain. The eigenvalue is
    fitted alike: ``value <- value + (1 - decay) <v,x> (<v,Hx> - value <v,x>) / C_11``.

    Args:
      decay: weight of a step relative to that of the next, in (0, 1); 1 / (1 - decay) steps are
        remembered.
      ridge: regularisation of the fit, relative to the mean of C's diagonal, > 0.

    Returns:
      A tracker for `xsam` and `eigen_sam`. How it compares with the others is measured by
      ``python -m experiments.tracking``.

    Raises:
      TypeError, ValueError: an argument that is out of its range.

    Example:
      >>> import xsam_jax
      >>> tx = xsam_jax.xsam(eigenvector=xsam_jax.subspace())
    """
    _checks.positive("ridge", ridge)
    _checks.positive("decay", decay)
    if not isinstance(decay, jax.core.Tracer) and decay >= 1:
        raise ValueError(f"decay must be a number in (0, 1), got {decay!r}")

    def init(params: chex.ArrayTree) -> Eigenpair:
        dtype = _linalg.statistics_dtype(params)
        memory = SubspaceMemory(
            _linalg.zeros_like(params), jnp.zeros((2, 2), dtype), jnp.zeros((2, 2), dtype)
        )
        return unknown(params)._replace(memory=memory)

    def after(step: Descent, pair: Eigenpair) -> Eigenpair:
        inverse, product = free_product(step)
        size = _linalg.norm(product)
        trees = (pair.vector, pair.memory.second, product)
        scales = jnp.stack([jnp.ones_like(size), jnp.ones_like(size), _linalg.reciprocal(size)])
        inner = {(i, j): _linalg.vdot(trees[i], trees[j]) for i in range(3) for j in range(i, 3)}
        gram = jnp.stack([inner[min(i, j), max(i, j)] for i in range(3) for j in range(3)])
        onto_x = jnp.stack([_linalg.vdot(tree, step.perturbation) for tree in trees])
        seen = _Seen(
            metric=jnp.outer(scales, scales) * gram.reshape(3, 3),
            x=inverse * scales * onto_x,
            size=size,
        )
        # Small matrices, but exact ones: no TF32 or bfloat16 multiplications.
        with jax.default_matmul_precision("highest"):
            basis, value, responses, covariance = _fit(seen, pair, decay, ridge)
        vector, second = (
            _linalg.cast_like(
                _linalg.combine(*zip(scales * basis[:, i], trees, strict=True)), pair.vector
            )
            for i in range(2)
        )
        memory = SubspaceMemory(second, responses, covariance)
        value = value.astype(jnp.float32)
        usable = (size > 0) & (_norm(seen.metric, basis[:, 0]) > 0) & jnp.isfinite(value)
        new: Eigenpair = _linalg.select(usable, Eigenpair(vector, value, memory), pair)
        return new

    return from_gradients(after, init)


class _Seen(NamedTuple):
    """A step by inner products; vectors are coefficients of ``(v, second, h)``."""

    metric: chex.Array  # of v, second and h with each other, [3, 3]
    x: chex.Array  # of v, second and h with x, [3]
    size: chex.Array  # ||Hx||


def _fit(
    seen: _Seen, pair: Eigenpair, decay: float, ridge: float
) -> tuple[chex.Array, chex.Array, chex.Array, chex.Array]:
    """The step of `subspace`: the new basis [3, 2], the eigenvalue, ``R`` and ``C``."""
    metric, h = seen.metric, jnp.array([0, 0, 1], seen.x.dtype)
    old = _filled(metric)
    along = old.T @ seen.x
    images = decay * old @ pair.memory.responses + (1 - decay) * jnp.outer(h, along)
    covariance = decay * pair.memory.covariance + (1 - decay) * jnp.outer(along, along)

    weight = (1 - decay) * along[0] * _linalg.reciprocal(covariance[0, 0])
    value = pair.value.astype(weight.dtype)
    value += weight * (seen.size * (old[:, 0] @ metric @ h) - value * along[0])

    fit = images @ _inverse(
        covariance + ridge * jnp.trace(covariance) / 2 * jnp.eye(2, dtype=metric.dtype)
    )
    new = _orthonormal(metric, fit)
    overlap = old.T @ metric @ new
    operator = new.T @ metric @ fit @ overlap
    # Of the symmetric part, the eigenvector of the larger eigenvalue lies at this angle.
    angle = jnp.arctan2(operator[0, 1] + operator[1, 0], operator[0, 0] - operator[1, 1]) / 2
    angle = jnp.where(_norm(metric, new[:, 1]) > 0, angle, 0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # An eigenvector's sign is arbitrary: it is kept from step to step.
    sign = jnp.where(cos * overlap[0, 0] + sin * overlap[0, 1] < 0, -1, 1)
    rotation = jnp.stack([jnp.stack([sign * cos, -sin]), jnp.stack([sign * sin, cos])])
    new, overlap = new @ rotation, overlap @ rotation
    return new, value, new.T @ metric @ images @ overlap, overlap.T @ covariance @ overlap


def _filled(metric: chex.Array) -> chex.Array:
    """The plane's basis [3, 2]; what is still unknown of it is filled up with ``h``."""
    v, second, h = jnp.eye(3, dtype=metric.dtype)
    known = metric[0, 0] > 0
    rest = _unit(metric, h - metric[0, 2] * v)
    return jnp.stack(
        [
            jnp.where(known, v, h),
            jnp.where(metric[1, 1] > 0, second, jnp.where(known, rest, 0)),
        ],
        axis=1,
    )


def _orthonormal(metric: chex.Array, columns: chex.Array) -> chex.Array:
    first = _unit(metric, columns[:, 0])
    second = columns[:, 1]
    for _ in range(2):  # twice is enough, however small the rest
        second = _unit(metric, second - (first @ metric @ second) * first)
    return jnp.stack([first, second], axis=1)


def _norm(metric: chex.Array, vector: chex.Array) -> chex.Array:
    return jnp.sqrt(jnp.maximum(vector @ metric @ vector, 0))


def _unit(metric: chex.Array, vector: chex.Array) -> chex.Array:
    """With norm one, or zero where nothing but rounding errors is left of it."""
    norm = _norm(metric, vector)
    scale = jnp.max(jnp.abs(vector)) * float(np.finfo(metric.dtype).eps) ** 0.5
    return jnp.where(norm > scale, _linalg.reciprocal(norm), 0) * vector


def _inverse(matrix: chex.Array) -> chex.Array:
    (a, b), (c, d) = matrix
    adjugate = jnp.stack([jnp.stack([d, -b]), jnp.stack([-c, a])])
    return _linalg.reciprocal(a * d - b * c) * adjugate
