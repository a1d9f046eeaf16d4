"""davda54/sam: its step, and ASAM's radius, in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.documents.blocks import recipe, run
from xsam_jax import sam

BLOCK = recipe("pytorch", "Coming from davda54/sam")
Params = dict[str, Any]


def flat(params: Params) -> np.ndarray:
    return np.concatenate([np.ravel(params[name]) for name in sorted(params)])


@pytest.mark.parametrize(("adaptive", "rho"), [(False, 0.05), (True, 2.0)])
def test_steps(adaptive: bool, rho: float) -> None:
    """Up, a second gradient, back, and a step of PyTorch's SGD with momentum and decay."""
    changes = {"    sam(rho=0.05)": "    method", "for _ in range(3):": "for _ in range(0):"}
    names = run(BLOCK, changes, method=sam(rho, adaptive=adaptive))
    params, state, x, y = (names[name] for name in ("params", "state", "x", "y"))
    w: Params = {name: np.asarray(leaf) for name, leaf in params.items()}
    velocity: Params = {}
    for _ in range(4):
        g = {name: np.asarray(leaf) for name, leaf in jax.grad(names["loss_fn"])(w, x, y).items()}
        scale = {name: np.abs(leaf) if adaptive else np.ones(()) for name, leaf in w.items()}
        length = np.sqrt(sum(np.sum((scale[name] * g[name]) ** 2) for name in w))
        there = {name: w[name] + rho * scale[name] ** 2 * g[name] / length for name in w}
        g_adv = jax.grad(names["loss_fn"])(there, x, y)
        for name in w:
            decayed = np.asarray(g_adv[name]) + 5e-4 * w[name]
            velocity[name] = 0.9 * velocity.get(name, 0) + decayed
            w[name] = w[name] - 0.1 * velocity[name]
        params, state, _ = names["step"](params, state, x, y)
        np.testing.assert_allclose(flat(params), flat(w), rtol=1e-10)


def test_asams_radius_is_relative() -> None:
    """``||e / |w||| = rho``, and SAM's radius is that times the size that all weights have."""
    matrix = jax.random.normal(jax.random.key(0), (5, 5)) + 3 * jnp.eye(5)
    size, rho = 0.1, 0.5

    def perturbation(method: Any, w: jax.Array) -> Any:
        """Of the direction ``matrix @ (w + e)``."""
        gradient = lambda w: matrix @ w
        direction, _ = method.update(gradient(w), method.init(w), w, grad_fn=gradient)
        return jnp.linalg.solve(matrix, direction) - w

    adaptive, w = sam(rho, adaptive=True), size * jnp.array([1.0, -1.0, -1.0, 1.0, 1.0])
    e = perturbation(sam(rho * size), w)
    np.testing.assert_allclose(perturbation(adaptive, w), e, rtol=1e-10)
    np.testing.assert_allclose(jnp.linalg.norm(e), rho * size)
    w = jax.random.normal(jax.random.key(1), (5,))
    np.testing.assert_allclose(jnp.linalg.norm(perturbation(adaptive, w) / jnp.abs(w)), rho)
