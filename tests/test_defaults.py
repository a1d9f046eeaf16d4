"""The defaults are those of the papers and their codes, and of curvature's measurements."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import xsam_jax

DEFAULTS: dict[Callable[..., Any], dict[str, Any]] = {
    xsam_jax.xsam: {"rho": 0.05, "alpha": 0.2, "correction": "signed", "normalize": True},
    xsam_jax.sam: {"rho": 0.05, "adaptive": False},
    xsam_jax.gsam: {"rho": 0.05, "alpha": 0.4},
    xsam_jax.wsam: {"rho": 0.05, "gamma": 0.9},
    xsam_jax.wsam_decoupled: {"rho": 0.05, "gamma": 0.9},
    xsam_jax.friendly_sam: {"rho": 0.05, "sigma": 1.0, "decay": 0.9},
    xsam_jax.eigen_sam: {"rho": 0.05, "alpha": 0.2},
    xsam_jax.power_iteration: {
        "every": 5,
        "iters": 5,
        "warm_start": True,
        "start": None,
        "seed": 0,
    },
    xsam_jax.oja: {"rate": 0.3},
    xsam_jax.subspace: {"size": 4, "decay": 0.98, "ridge": 0.2},
    xsam_jax.curvature.top_eigenpairs: {"k": 1, "num_matvecs": 30, "which": "LA", "start": None},
    xsam_jax.curvature.spectral_density: {"num_matvecs": 30, "num_probes": 10},
    xsam_jax.curvature.trace: {"num_probes": 100},
    xsam_jax.curvature.angle: {"layerwise": False},
}


@pytest.mark.parametrize("function", DEFAULTS, ids=lambda f: f.__name__)
def test_defaults(function: Callable[..., Any]) -> None:
    given = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    expected = {"axis_name": None, "per_device": False} if "axis_name" in given else {}
    given.pop("eigenvector", None)
    assert given == DEFAULTS[function] | expected
