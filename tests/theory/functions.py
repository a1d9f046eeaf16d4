"""Functions with derivatives in closed form, and other helpers of the theorems' tests."""

from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

import xsam_jax


class Cosines(NamedTuple):
    """``f(w) = sum_j amplitudes[j] cos(frequencies[j] . w)``: smooth, bounded and not convex."""

    amplitudes: chex.Array  # [m]
    frequencies: chex.Array  # [m, d]

    def loss(self, w: chex.Array) -> chex.Array:
        return self.amplitudes @ jnp.cos(self.frequencies @ w)

    def grad(self, w: chex.Array) -> chex.Array:
        return -(self.amplitudes * jnp.sin(self.frequencies @ w)) @ self.frequencies

    def hessian(self, w: chex.Array) -> chex.Array:
        weights = self.amplitudes * jnp.cos(self.frequencies @ w)
        return -(self.frequencies.T * weights[None]) @ self.frequencies

    def third(self, w: chex.Array, a: chex.Array, b: chex.Array) -> chex.Array:
        """The third derivative along ``a`` and ``b``, a vector."""
        weights = self.amplitudes * jnp.sin(self.frequencies @ w)
        return (weights * (self.frequencies @ a) * (self.frequencies @ b)) @ self.frequencies

    def bound(self, order: int) -> float:
        """A bound of the operator norm of the derivative of this order, at all points."""
        norms = np.linalg.norm(self.frequencies, axis=1)
        return float(np.sum(np.abs(self.amplitudes) * norms**order))


def random_cosines(seed: int, dimension: int = 5, terms: int = 8) -> Cosines:
    keys = jax.random.split(jax.random.key(seed), 2)
    return Cosines(
        amplitudes=jax.random.normal(keys[0], (terms,)),
        frequencies=jax.random.normal(keys[1], (terms, dimension)) / dimension**0.5,
    )


class Valley(NamedTuple):
    """``f(x, z, y) = (top + bend y) x^2 / 2 + second z^2 / 2 + mixing x y z + slope y``.

    On its floor, x = z = 0, the gradient is (0, 0, slope) and the Hessian
    ``[[top + bend y, mixing y, 0], [mixing y, second, 0], [0, 0, 0]]``. At the origin the leading
    eigenvector is the x axis, orthogonal to the gradient, and the gradient of the leading
    eigenvalue is (0, 0, bend).
    """

    top: float
    second: float
    bend: float
    mixing: float
    slope: float

    def loss(self, w: chex.Array) -> chex.Array:
        x, z, y = w
        bowl = (self.top + self.bend * y) * x**2 / 2 + self.second * z**2 / 2
        return bowl + self.mixing * x * y * z + self.slope * y

    def grad(self, w: chex.Array) -> np.ndarray:
        x, z, y = w
        return np.array(
            [
                (self.top + self.bend * y) * x + self.mixing * y * z,
                self.second * z + self.mixing * x * y,
                self.bend * x**2 / 2 + self.mixing * x * z + self.slope,
            ]
        )

    def hessian(self, w: chex.Array) -> np.ndarray:
        x, z, y = w
        xy, zy = self.bend * x + self.mixing * z, self.mixing * x
        return np.array(
            [
                [self.top + self.bend * y, self.mixing * y, xy],
                [self.mixing * y, self.second, zy],
                [xy, zy, 0],
            ]
        )


def leading_eigenpair(matrix: chex.Array) -> tuple[float, np.ndarray]:
    values, vectors = np.linalg.eigh(matrix)
    return float(values[-1]), vectors[:, -1]


def order_of(sizes: np.ndarray, remainders: np.ndarray) -> float:
    """Fit the exponent p of ``remainders ~ sizes**p``."""
    return float(np.polyfit(np.log(sizes), np.log(np.abs(remainders)), 1)[0])


def unit_vector(size: int, seed: int) -> np.ndarray:
    v = np.random.default_rng(seed).normal(size=size)
    return v / np.linalg.norm(v)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@partial(jax.jit, static_argnames="correction")
def corrected(grads: chex.Array, v: np.ndarray, alpha: float, correction: Any) -> chex.Array:
    """Compute X-SAM's direction for a constant gradient and the eigenvector ``v``."""
    # Between equal gradients Oja's rule has no product, and leaves the vector as it is.
    method = xsam_jax.xsam(
        0.1, alpha, eigenvector=xsam_jax.oja(), correction=correction, normalize=False
    )
    state = method.init(grads)._replace(eigenvector=jnp.asarray(v))
    direction, _ = method.update(grads, state, grads, grad_fn=lambda w: grads)
    return direction
