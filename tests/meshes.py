"""Meshes of several devices, and what may be missing for them."""

import importlib.util
import math

import jax
import pytest
from jax.sharding import AxisType, Mesh

# For TPUs, which need not be there, to compile for.
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install -e '.[dev,tpu]'"
)


def mesh_of(
    *sizes: int, names: tuple[str, ...] = ("data",), kind: AxisType = AxisType.Auto
) -> Mesh:
    """Make a mesh, or skip the test where there are fewer devices."""
    needed = math.prod(sizes)
    if needed > jax.device_count():
        pytest.skip(f"needs {needed} devices, and there are {jax.device_count()}")
    return jax.make_mesh(sizes, names, axis_types=(kind,) * len(sizes))
