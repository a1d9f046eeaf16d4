"""Meshes of several devices."""

import math

import jax
import pytest
from jax.sharding import AxisType, Mesh


def mesh_of(
    *sizes: int, names: tuple[str, ...] = ("data",), kind: AxisType = AxisType.Auto
) -> Mesh:
    """Skips the test where there are fewer devices: on a CPU tests/conftest.py asks for eight."""
    needed = math.prod(sizes)
    if needed > jax.device_count():
        pytest.skip(f"needs {needed} devices, and there are {jax.device_count()}")
    return jax.make_mesh(sizes, names, axis_types=(kind,) * len(sizes))
