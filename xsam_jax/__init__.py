"""X-SAM and the sharpness-aware methods it is compared with, for JAX."""

from xsam_jax._convolution import channels_last as channels_last
from xsam_jax._oja import oja as oja
from xsam_jax._power_iteration import power_iteration as power_iteration
from xsam_jax._sam import SAMState as SAMState
from xsam_jax._sam import sam as sam
from xsam_jax._xsam import XSAMState as XSAMState
from xsam_jax._xsam import xsam as xsam
