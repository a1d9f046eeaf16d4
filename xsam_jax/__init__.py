"""X-SAM and the sharpness-aware methods it is compared with, for JAX."""

from xsam_jax import curvature as curvature
from xsam_jax._accumulation import mean_grad_fn as mean_grad_fn
from xsam_jax._channels_last import channels_last as channels_last
from xsam_jax._eigen_sam import EigenSAMState as EigenSAMState
from xsam_jax._eigen_sam import eigen_sam as eigen_sam
from xsam_jax._friendly_sam import FriendlySAMState as FriendlySAMState
from xsam_jax._friendly_sam import friendly_sam as friendly_sam
from xsam_jax._gsam import gsam as gsam
from xsam_jax._masking import masked_grad_fn as masked_grad_fn
from xsam_jax._oja import oja as oja
from xsam_jax._power_iteration import power_iteration as power_iteration
from xsam_jax._sam import sam as sam
from xsam_jax._subspace import SubspaceMemory as SubspaceMemory
from xsam_jax._subspace import subspace as subspace
from xsam_jax._two_gradients import SAMState as SAMState
from xsam_jax._wsam import WSAMDecoupledState as WSAMDecoupledState
from xsam_jax._wsam import wsam as wsam
from xsam_jax._wsam import wsam_decoupled as wsam_decoupled
from xsam_jax._xsam import XSAMState as XSAMState
from xsam_jax._xsam import xsam as xsam
