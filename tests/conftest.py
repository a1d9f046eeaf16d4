"""The library's tests run in 64 bits and refuse every implicit promotion."""

import os

# On the CPU also where there is a GPU, unless JAX_PLATFORMS says otherwise: cuda,cpu, because some
# tests call back to the host.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight devices on it; and what the compiler would optimise is run a few times only.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true",
)

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_numerics(request: pytest.FixtureRequest) -> Iterator[None]:
    """x64 on, dtype and rank promotion errors; `experiments` and the documents run as users do."""
    if "experiments" in request.path.parts or request.path.name == "test_examples.py":
        yield
        return
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        yield
