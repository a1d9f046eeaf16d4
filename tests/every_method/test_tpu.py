"""A TPU's compiler takes every method and measurement; no TPU has run them."""

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from experiments.speed.compilation import shapes_on
from experiments.speed.tpu import tpus
from tests.every_method.methods import METHODS, every_method
from tests.every_method.problem import grad_fn, init, step
from tests.meshes import needs_libtpu
from xsam_jax import curvature

pytestmark = needs_libtpu

KEY = jax.random.key(0)
MEASUREMENTS: dict[str, Callable[[chex.ArrayTree], chex.ArrayTree]] = {
    "hvp": lambda params: curvature.hvp(grad_fn(0), params, params),
    "top_eigenpairs": lambda params: curvature.top_eigenpairs(
        grad_fn(0), params, k=2, num_matvecs=4, key=KEY
    ),
    "spectral_density": lambda params: curvature.spectral_density(
        grad_fn(0), params, num_matvecs=4, num_probes=2, key=KEY
    ),
    "trace": lambda params: curvature.trace(grad_fn(0), params, num_probes=2, key=KEY),
    "angle": lambda params: curvature.angle(params, params),
}


def compile_for_tpu(function: Callable[..., chex.ArrayTree], *arguments: chex.ArrayTree) -> None:
    there = SingleDeviceSharding(tpus("v5e:2x2")[0])
    jax.jit(function).lower(*shapes_on(there, arguments)).compile()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@every_method
def test_step(name: str, dtype: str) -> None:
    tx = METHODS[name].optimizer()
    params = init(dtype)
    compile_for_tpu(functools.partial(step, tx), params, tx.init(params), jnp.int32(0))


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_measurement(name: str) -> None:
    compile_for_tpu(MEASUREMENTS[name], init(jnp.float32))
