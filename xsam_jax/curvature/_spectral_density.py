"""Density of the Hessian's eigenvalues."""

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
from xsam_jax.curvature._lanczos import eigh, tridiagonalize

_GRID_POINTS = 1024
_BROADENING = 0.01  # standard deviation over the width of the spectrum


_NO_DERIVATIVE = (
    "curvature.spectral_density has no derivative: hold with jax.lax.stop_gradient what is "
    "differentiated, params and what grad_fn closes over, or measure it outside of what is"
)


class Density(NamedTuple):
    """The density of a Hessian's eigenvalues.

    Attributes:
      grid: float32 (float64 for float64 parameters) [1024], equidistant, over the whole spectrum.
      density: [1024], dtype of ``grid``; its trapezoidal integral over ``grid`` is 1.
    """

    grid: chex.Array
    density: chex.Array


def spectral_density(
    grad_fn: GradFn,
    params: chex.ArrayTree,
    *,
    num_matvecs: int = 30,
    num_probes: int = 10,
    key: chex.PRNGKey,
) -> Density:
    """Density of the Hessian's eigenvalues by stochastic Lanczos quadrature (paper, Figure 3).

    Each probe, uniform on the sphere, gives the nodes and weights of a Gauss quadrature of the
    spectrum. Their mean over the probes is smoothed by a Gaussian whose standard deviation is 1% of
    the spectrum's width (zero included), and drawn on a grid. Costs ``num_matvecs * num_probes``
    Hessian-vector products, and memory for ``num_matvecs`` vectors.

    It has no derivative, in no mode, and raises where one is taken: hold ``params`` and what
    ``grad_fn`` closes over with `jax.lax.stop_gradient` in a function that is differentiated.

    Args:
      grad_fn: Maps parameters to the gradient of a scalar loss.
      params: Where the Hessian is taken.
      num_matvecs: Quadrature nodes a probe; reduced to the number of parameters if larger.
      num_probes: Number of probes.
      key: Random key of the probes.

    Returns:
      `Density`; its mean is the estimate ``trace / number of parameters`` of the same probes.

    Raises:
      TypeError: ``num_matvecs`` or ``num_probes`` is not an integer, ``key`` is no random key, or
        `hvp` does not take ``grad_fn``, or the density is differentiated.
      ValueError: ``num_matvecs`` or ``num_probes`` is less than 1, or ``params`` has no elements.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from xsam_jax import curvature
      >>> grad_fn = jax.grad(lambda w: jnp.sum(w**2))
      >>> grid, density = curvature.spectral_density(grad_fn, jnp.ones(50), key=jax.random.key(0))
      >>> float(jnp.trapezoid(density, grid).round(3)), float(grid[density.argmax()].round(2))
      (1.0, 2.0)
    """
    _checks.integer("num_matvecs", num_matvecs, 1)
    _checks.integer("num_probes", num_probes, 1)
    _checks.key("key", key)
    return compiled_once(lambda: _spectral_density(grad_fn, params, num_matvecs, num_probes, key))


def _spectral_density(
    grad_fn: GradFn, params: chex.ArrayTree, num_matvecs: int, num_probes: int, key: chex.PRNGKey
) -> Density:
    hessian = flat_hessian(grad_fn, params)
    hessian = hessian._replace(constants=_not_differentiated(hessian.constants))

    def quadrature(probe_key: chex.PRNGKey) -> tuple[chex.Array, chex.Array]:
        depth = min(num_matvecs, hessian.size)
        nodes, vectors = eigh(tridiagonalize(hessian, depth, probe_key).tridiagonal)
        return nodes, vectors[0] ** 2

    with jax.default_matmul_precision("highest"):
        nodes, weights = lax.map(quadrature, jax.random.split(key, num_probes))
    low, high = jnp.minimum(nodes.min(), 0), jnp.maximum(nodes.max(), 0)
    width = jnp.where(high > low, high - low, 1)
    deviation = _BROADENING * width
    margin = 6 * deviation
    # The numbers that are returned are also those of the area: XLA would compute some twice.
    grid = lax.optimization_barrier(
        jnp.linspace(nodes.min() - margin, nodes.max() + margin, _GRID_POINTS)
    )
    distances = (grid[:, None] - nodes.reshape(1, -1)) / deviation
    density = _sums.inner_products(weights.reshape(1, -1), jnp.exp(-(distances**2) / 2))
    area = _sums.inner_products((density[1:] + density[:-1]) / 2, jnp.diff(grid))
    return Density(grid, density / area)


@jax.custom_jvp
def _not_differentiated(tree: chex.ArrayTree) -> chex.ArrayTree:
    """Returns ``tree``, and raises where it is differentiated."""
    return tree


@_not_differentiated.defjvp
def _raise(primals: Any, tangents: Any) -> Any:
    # Where two eigenvalues are equal that of Lanczos' basis would be anything.
    raise TypeError(_NO_DERIVATIVE)
