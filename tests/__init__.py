"""Tests of xsam_jax; they mirror its modules."""
