"""Curvature of the loss: Hessian products, eigenpairs, spectrum, trace, and the gradient's angle.

All of it needs ``grad_fn`` only, the map from parameters to the gradient. With
``grad_fn = mean_grad_fn(loss_fn, batches)`` the Hessian is that of the whole data set, in the
memory of one batch. The functions are pure, and fastest under `jax.jit`. Outside of it they trace
``grad_fn`` in each call, so its data may change in between, and compile their loops once for each
computation. There each *derivative* of them compiles anew, and JAX keeps what it has compiled until
`jax.clear_caches`.
"""

from xsam_jax import _signatures
from xsam_jax.curvature._angle import angle
from xsam_jax.curvature._eigenpairs import Eigenpairs, top_eigenpairs
from xsam_jax.curvature._hvp import hvp
from xsam_jax.curvature._spectral_density import Density, spectral_density
from xsam_jax.curvature._trace import Estimate, trace

__all__ = [
    "Density",
    "Eigenpairs",
    "Estimate",
    "angle",
    "hvp",
    "spectral_density",
    "top_eigenpairs",
    "trace",
]

_signatures.readable(globals()[name] for name in __all__)
