"""Every name of a method gives its transformation before the same base optimizer."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import Method, TrainConfig, resolve
from experiments.methods import build_method

PARAMS = {"w": jnp.array([1.0, -2.0, 3.0]), "b": jnp.array(0.5)}
CURVATURE = jnp.array([5.0, 1.0, 0.1])


def loss(params: dict[str, jax.Array]) -> jax.Array:
    return jnp.sum(CURVATURE * params["w"] ** 2) + jnp.cos(params["b"]) * params["w"][0]


GRADS = jax.grad(loss)(PARAMS)


def updates(method: Method, *, steps: int = 1, **options: float) -> dict[str, jax.Array]:
    tx = build_method(resolve(TrainConfig(method=method, **options)), total_steps=10)
    state = tx.init(PARAMS)
    for _ in range(steps):
        update, state = jax.jit(lambda s: tx.update(GRADS, s, PARAMS, grad_fn=jax.grad(loss)))(
            state
        )
    return update


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_descends(method: Method) -> None:
    update = updates(method, rho=0.01)
    slope = sum(jnp.vdot(update[name], GRADS[name]) for name in PARAMS)
    assert float(slope) < 0


def test_base_optimizer() -> None:
    update = updates("sgd", learning_rate=0.3, weight_decay=0.1)
    for name in PARAMS:
        expected = -0.3 * (GRADS[name] + 0.1 * PARAMS[name])
        np.testing.assert_allclose(update[name], expected, rtol=1e-6)


def test_momentum_and_cosine() -> None:
    update = updates("sgd", steps=2, learning_rate=0.3, momentum=0.5, weight_decay=0.0)
    factor = -0.3 * (1 + np.cos(np.pi / 10)) / 2 * 1.5
    np.testing.assert_allclose(update["w"], factor * GRADS["w"], rtol=1e-6)


def test_normalized_sam_is_xsam_without_correction() -> None:
    control = updates("normalized_sam", weight_decay=0.0)
    np.testing.assert_allclose(
        control["w"], updates("xsam", weight_decay=0.0, alpha=0.0)["w"], rtol=1e-5
    )
    assert not np.allclose(control["w"], updates("xsam", weight_decay=0.0)["w"], rtol=1e-3)
