"""The machine that a number was measured on."""

import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version

import jax

_PACKAGES = ("jax", "jaxlib", "optax", "flax", "xsam_jax")


def cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(affinity()) or os.cpu_count() or 1


def affinity() -> list[int]:
    """List the CPU cores that this process may use; empty where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def device() -> str:
    """Name the accelerator, with the number of CPU cores."""
    return f"{jax.devices()[0].device_kind}, {cores()} CPU cores"


def peak_mib() -> float:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def available_mib() -> float:
    """Memory that a new process may take."""
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":") for line in file)
        return int(fields["MemAvailable"].split()[0]) / 2**10
    except (OSError, KeyError):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2**20


def peak_device_mib() -> float | None:
    """The most memory that arrays and programs have taken on the accelerator; None on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return None if stats is None else stats["peak_bytes_in_use"] / 2**20


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
