"""X-SAM and the sharpness-aware methods it is compared with, for JAX."""

from xsam_jax import curvature as curvature
from xsam_jax._gradients import masked_grad_fn as masked_grad_fn
from xsam_jax._gradients import mean_grad_fn as mean_grad_fn
from xsam_jax._methods.eigen_sam import EigenSAMState as EigenSAMState
from xsam_jax._methods.eigen_sam import eigen_sam as eigen_sam
from xsam_jax._methods.friendly_sam import FriendlySAMState as FriendlySAMState
from xsam_jax._methods.friendly_sam import friendly_sam as friendly_sam
from xsam_jax._methods.gsam import gsam as gsam
from xsam_jax._methods.sam import sam as sam
from xsam_jax._methods.wsam import WSAMDecoupledState as WSAMDecoupledState
from xsam_jax._methods.wsam import wsam as wsam
from xsam_jax._methods.wsam import wsam_decoupled as wsam_decoupled
from xsam_jax._methods.xsam import XSAMState as XSAMState
from xsam_jax._methods.xsam import xsam as xsam
from xsam_jax._trackers.oja import oja as oja
from xsam_jax._trackers.power_iteration import power_iteration as power_iteration
from xsam_jax._trackers.subspace import SubspaceMemory as SubspaceMemory
from xsam_jax._trackers.subspace import subspace as subspace
from xsam_jax._two_gradients import SAMState as SAMState
from xsam_jax._xla.channels_last import channels_last as channels_last
