"""A few leading eigenvectors at once, fitted to the two gradients of all steps."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from xsam_jax import _checks, _inner_products, _linalg, _sums
from xsam_jax._hyperparameters import constant
from xsam_jax._trackers.tracker import (
    Eigenpair,
    Projection,
    Tracker,
    free_product,
    product_norm,
    unknown,
)
from xsam_jax._two_gradients import Descent


class SubspaceMemory(NamedTuple):
    """What `subspace` keeps beside the eigenvector ``v``; its basis is ``U = [v, *others]``.

    Attributes:
      others: trees like the parameters and of the eigenvector's dtype, orthonormal with the
        eigenvector, or zero while nothing is known.
      responses: ``R`` with ``U R`` the part in the subspace of the sum of ``h (U'x)'``,
        [size, size].
      covariance: ``C``, the sum of ``(U'x) (U'x)'``, [size, size].
    """

    others: tuple[chex.ArrayTree, ...]
    responses: chex.Array
    covariance: chex.Array


def subspace(size: int = 4, *, decay: chex.Numeric = 0.98, ridge: chex.Numeric = 0.2) -> Tracker:
    """Follows the leading eigenvectors without any Hessian-vector product.

    As for `oja`, SAM's two gradients give a product for free: with ``x = e / ||e||``,
    ``(g_adv - g) / ||e|| = Hx + O(||e||)``, and ``h`` is its direction. Each is a noisy sample, of
    one mini-batch and of the one direction of its gradient. Oja's rule forgets them at its rate;
    this tracker fits them. On ``size`` orthonormal vectors ``U`` the least-squares fit of
    ``h = M U'x`` over all steps, each of weight ``decay`` times that of the next, is ``M = N /
    C``, with the sums ``N`` of ``h (U'x)'`` and ``C`` of ``(U'x)(U'x)'``. Where all ``||Hx||`` are
    alike, ``M`` is a multiple of ``H U``, so its span is one step of a block power iteration, and
    the symmetric part of the fitted operator on it gives, by Rayleigh-Ritz, the order of the
    vectors: the first belongs to the largest eigenvalue on the span, not to the one of largest
    magnitude. (Where ``||Hx||`` depends on ``x`` it is as with `oja`: directions that gradients
    visit one at a time have equal eigenvalues in ``M``.) The span itself follows the largest
    magnitudes: where ``size`` eigenvalues or more are negative and of larger magnitude than the
    largest one, that one is lost (`oja` follows it). Of ``N`` only the part in the new subspace is
    kept. So a step is::

        N = decay U R + h (U'x)'                  C <- decay C + (U'x)(U'x)'
        M = N (C + ridge tr(C)/size I)^-1
        U+ = orth(M), rotated to diagonalise the symmetric part of U+'M (U'U+)
        R = U+'N (U'U+)                           C <- (U'U+)'C (U'U+)

    Several vectors and not one, because while leading eigenvalues are close or cross, one vector
    comes to lie between their eigenvectors.

    Everything but the new vectors follows from the inner products of ``U``, ``h`` and ``x``: a step
    costs ``(size + 1) (size + 4) / 2`` of them, and the state ``size`` copies of the parameters.

    Both gradients must be of the same loss, with the same random numbers, as for `oja`: put the
    method first in the chain. What `oja` says of the directions that gradients visit, and of small
    radii, holds here too. The eigenvalue is fitted alike: ``value <- value + <v,x> (<v,Hx> -
    value <v,x>) / C_11``. So the first step sets ``||Hx||**2 / <x,Hx>``, which has the sign of the
    curvature along the gradient, and in magnitude is ``||Hx||`` or more.

    A step has no derivative (it is NaN) while fewer than ``size`` vectors are known: the others'
    eigenvalues are equal.

    Args:
      size: number of vectors, >= 1.
      decay: weight of a step relative to that of the next, in (0, 1); 1 / (1 - decay) steps are
        remembered.
      ridge: regularisation of the fit, relative to the mean of C's diagonal, > 0. Both may be
        traced.

    Returns:
      A tracker for `xsam` and `eigen_sam`. How it compares with the others is measured by
      ``python -m experiments.tracking``.

    Raises:
      TypeError, ValueError: an argument that is out of its range.

    Example:
      >>> import xsam_jax
      >>> tx = xsam_jax.xsam(eigenvector=xsam_jax.subspace())
    """
    _checks.integer("size", size, low=1)
    ridge = constant("ridge", ridge, low=0.0, ends="()")
    decay = constant("decay", decay, low=0.0, high=1.0, ends="()")

    def init(params: chex.ArrayTree) -> Eigenpair:
        dtype = _sums.statistics_dtype(params)
        # Arrays of their own: one that is donated must occur once.
        others = tuple(_linalg.zeros_like(params) for _ in range(size - 1))
        responses, covariance = jnp.zeros((size, size), dtype), jnp.zeros((size, size), dtype)
        return unknown(params)._replace(memory=SubspaceMemory(others, responses, covariance))

    def after(step: Descent, pair: Eigenpair) -> tuple[Eigenpair, Projection]:
        x, product = free_product(step)
        trees = (pair.vector, *pair.memory.others, product)
        inner = _inner_products.gram(*trees, x.tree)
        length = product_norm(step, x, inner[size, size], product)
        scales = jnp.ones((size + 1,), length.dtype).at[size].set(_linalg.reciprocal(length))
        seen = _Seen(
            # Not by the squares of the scales, which may be beyond float32's range.
            metric=scales[:, None] * inner[:-1, :-1] * scales[None],
            x=x.scale * scales * inner[-1, :-1],
            length=length,
        )
        # Small matrices, but exact ones: no TF32 or bfloat16 multiplications.
        with jax.default_matmul_precision("highest"):
            basis, value, responses, covariance = _fit(seen, pair, decay, ridge)
        vector, *others = (
            _linalg.cast_like(
                _linalg.combine(*zip(scales * basis[:, i], trees, strict=True)), pair.vector
            )
            for i in range(size)
        )
        value = value.astype(jnp.float32)
        # Of the state's dtype, whatever that of the gradients.
        responses, covariance = _linalg.cast_like((responses, covariance), pair.memory[1:])
        memory = SubspaceMemory(tuple(others), responses, covariance)
        # The fit may cancel to zero where curvatures change their sign.
        usable = (length > 0) & (_norm_in(seen.metric, basis[:, 0]) > 0)
        new: Eigenpair = _linalg.select(usable, Eigenpair(vector, value, memory), pair)

        def projection() -> chex.Array:
            of_trees = scales * _inner_products.vdots(*((step.grads_adv, tree) for tree in trees))
            return jnp.where(usable, jnp.sum(of_trees * basis[:, 0]), of_trees[0])

        return new, projection

    name = f"subspace(size={size}, decay={decay}, ridge={ridge})"
    return Tracker(after=after, init=init, free=True, constants=(ridge, decay), name=name)


class _Seen(NamedTuple):
    """What a step tells of the Hessian, in inner products with the vectors of ``(*U, h)``."""

    metric: chex.Array  # of the basis and h with each other, [size + 1, size + 1]
    x: chex.Array  # of the basis and h with x, [size + 1]
    length: chex.Array  # ||Hx||


def _fit(
    seen: _Seen, pair: Eigenpair, decay: chex.Numeric, ridge: chex.Numeric
) -> tuple[chex.Array, chex.Array, chex.Array, chex.Array]:
    """Fits the basis [size + 1, size] to a step; returns it, the eigenvalue, ``R`` and ``C``."""
    metric, size = seen.metric, len(seen.x) - 1
    responses, covariance = _linalg.cast(pair.memory[1:], metric.dtype)
    h = jnp.zeros_like(seen.x).at[size].set(1)
    old = _filled(metric)
    along = old.T @ seen.x
    images = decay * old @ responses + jnp.outer(h, along)
    covariance = decay * covariance + jnp.outer(along, along)

    weight = _linalg.ratio(along[0], covariance[0, 0])
    value = pair.value.astype(weight.dtype)
    value += weight * (seen.length * (old[:, 0] @ metric @ h) - value * along[0])

    variances, axes = _eigh(covariance)
    variances = jnp.maximum(variances, 0) + ridge * jnp.trace(covariance) / size
    fit = images @ (axes * _linalg.reciprocal(variances)[None]) @ axes.T
    new = _orthonormal(metric, fit)
    overlap = old.T @ metric @ new
    operator = new.T @ metric @ fit @ overlap
    operator += operator.T  # twice its symmetric part: the eigenvectors are the same
    # What is still unknown comes last, also behind negative eigenvalues.
    known = jnp.diag(new.T @ metric @ new) > 0
    last = -1 - jnp.sum(jnp.abs(operator))
    rotation = _eigh(operator + jnp.diag(jnp.where(known, 0, last)))[1][:, ::-1]
    # An eigenvector's sign is arbitrary: it is kept from step to step.
    rotation = jnp.where(jnp.diag(overlap @ rotation)[None] < 0, -rotation, rotation)
    new, overlap = new @ rotation, overlap @ rotation
    return new, value, new.T @ metric @ images @ overlap, overlap.T @ covariance @ overlap


def _eigh(matrix: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Ascending eigenvalues and their eigenvectors, of two copies: a GPU has no fast way for one.

    For a single small matrix JAX calls a routine of NVIDIA's that copies to the host and waits, for
    several another one: a step of ResNet-18 on an H200 takes 1.18 times SAM's with it, not 1.36.
    """
    values, vectors = jnp.linalg.eigh(jnp.stack([matrix, matrix]))
    return values[0], vectors[0]


def _filled(metric: chex.Array) -> chex.Array:
    """Makes the first unknown vector of the basis [size + 1, size] from ``h``, and returns all."""
    size = len(metric) - 1
    known = jnp.diag(metric)[:size] > 0
    basis = jnp.where(known[None], jnp.eye(size + 1, size, dtype=metric.dtype), 0)
    h = jnp.zeros((size + 1,), metric.dtype).at[size].set(1)
    rest = _unit_in(metric, h - basis @ (basis.T @ metric @ h))
    first_unknown = ~known & (jnp.cumsum(~known) == 1)
    return jnp.where(first_unknown[None], rest[:, None], basis)


def _orthonormal(metric: chex.Array, columns: chex.Array) -> chex.Array:
    """Makes the columns orthonormal, one after the other (Gram-Schmidt)."""
    basis = jnp.zeros_like(columns)
    for i in range(columns.shape[1]):
        vector = _unit_in(metric, columns[:, i])
        for _ in range(2):  # twice is enough, however small the rest
            vector = _unit_in(metric, vector - basis @ (basis.T @ metric @ vector))
        basis = basis.at[:, i].set(vector)
    return basis


def _norm_in(metric: chex.Array, vector: chex.Array) -> chex.Array:
    """The norm, in a metric, of the vector with these coefficients."""
    return jnp.sqrt(jnp.maximum(vector @ metric @ vector, 0))


def _unit_in(metric: chex.Array, vector: chex.Array) -> chex.Array:
    """Scales a vector to norm one, or to zero where only rounding errors are left of it."""
    norm = _norm_in(metric, vector)
    # The error of its square is some eps.
    scale = 8 * float(np.finfo(metric.dtype).eps) ** 0.5 * jnp.max(jnp.abs(vector))
    return jnp.where(norm > scale, _linalg.reciprocal(norm), 0) * vector
