"""The library's tests run in 64 bits and refuse every implicit promotion."""

import os

# On the CPU also where there is a GPU, unless JAX_PLATFORMS says otherwise: cuda,cpu, because some
# tests call back to the host.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from collections.abc import Iterator

import jax
import pytest

from tests.documents.blocks import as_users_do

# Eight devices on the CPU; and what the compiler would optimise is run a few times only.
_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)
# Compiles in two thirds of the time; later versions have it no more. .ci/oldest goes without.
_OLD_EMITTERS = ("--xla_cpu_use_fusion_emitters=false",) if jax.__version_info__ < (0, 11) else ()
os.environ.setdefault("XLA_FLAGS", " ".join((*_FLAGS, *_OLD_EMITTERS)))


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


@pytest.fixture
def float32_as_users_do() -> Iterator[None]:
    """Undo the strict numerics, for tests of what a user's own script sees."""
    with jax.enable_x64(False), as_users_do():
        yield
