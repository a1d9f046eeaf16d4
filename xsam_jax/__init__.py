"""X-SAM and the sharpness-aware methods it is compared with, for JAX.

Methods are optax transformations that stand before an optimizer: `xsam`, `sam` (with ASAM), `gsam`,
`wsam`, `wsam_decoupled`, `friendly_sam`, `eigen_sam`. `xsam` and `eigen_sam` follow the Hessian's
dominant eigenvector by a tracker: `power_iteration`, `oja`, `subspace`, or a `Tracker` of your own.
`curvature` measures the Hessian.
"""

from xsam_jax import _signatures, curvature
from xsam_jax._gradients import GradFn, masked_grad_fn, mean_grad_fn
from xsam_jax._hyperparameters import ScalarOrSchedule
from xsam_jax._methods.eigen_sam import EigenSAMState, eigen_sam
from xsam_jax._methods.friendly_sam import FriendlySAMState, friendly_sam
from xsam_jax._methods.gsam import gsam
from xsam_jax._methods.sam import sam
from xsam_jax._methods.wsam import WSAMDecoupledState, wsam, wsam_decoupled
from xsam_jax._methods.xsam import XSAMState, xsam
from xsam_jax._nnx import nnx_value_and_grad
from xsam_jax._trackers.oja import oja
from xsam_jax._trackers.power_iteration import power_iteration
from xsam_jax._trackers.subspace import SubspaceMemory, subspace
from xsam_jax._trackers.tracker import Eigenpair, Tracker, free_product, periodic
from xsam_jax._two_gradients import Ascent, Descent, SAMState
from xsam_jax._xla.channels_last import channels_last

__version__ = "0.1.0"

__all__ = [
    "Ascent",
    "Descent",
    "EigenSAMState",
    "Eigenpair",
    "FriendlySAMState",
    "GradFn",
    "SAMState",
    "ScalarOrSchedule",
    "SubspaceMemory",
    "Tracker",
    "WSAMDecoupledState",
    "XSAMState",
    "channels_last",
    "curvature",
    "eigen_sam",
    "free_product",
    "friendly_sam",
    "gsam",
    "masked_grad_fn",
    "mean_grad_fn",
    "nnx_value_and_grad",
    "oja",
    "periodic",
    "power_iteration",
    "sam",
    "subspace",
    "wsam",
    "wsam_decoupled",
    "xsam",
]

_signatures.readable(globals()[name] for name in __all__)
