"""Meshes of several devices, and TPUs to compile for."""

import math
import os
from collections.abc import Sequence

import jax
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh


def mesh_of(
    *sizes: int, names: tuple[str, ...] = ("data",), kind: AxisType = AxisType.Auto
) -> Mesh:
    """Skips the test where there are fewer devices: on a CPU tests/conftest.py asks for eight."""
    needed = math.prod(sizes)
    if needed > jax.device_count():
        pytest.skip(f"needs {needed} devices, and there are {jax.device_count()}")
    return jax.make_mesh(sizes, names, axis_types=(kind,) * len(sizes))


def tpus(topology: str) -> Sequence[jax.Device]:
    """The chips of a topology such as v5e:2x4, to compile for: they need not be there.

    Skips the test without libtpu.
    """
    pytest.importorskip("libtpu", reason="needs libtpu: pip install -e '.[dev,tpu]'")
    # Libtpu would ask the network what TPUs this machine has, and serve one process at a time.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    return topologies.get_topology_desc(topology, "tpu").devices
