"""X-SAM and the sharpness-aware methods it is compared with, for JAX."""

from xsam_jax._convolution import channels_last as channels_last
