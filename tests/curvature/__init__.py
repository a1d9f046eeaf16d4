"""Tests of xsam_jax.curvature, one file a measurement."""
