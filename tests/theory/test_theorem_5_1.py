"""Theorem 5.1: the norm of I - alpha v v^T, and the convergence of X-SAM.

As printed it does not hold. Its constants depend "only on c_0", which is never defined. Its floor
c_2 (1 + 2 alpha^2) has no unit, where a squared gradient has one (multiply f by a constant), and
does not know rho. D_rho = sup ||g_t - h_t||^2, which the theorem defines and does not use, would
have both, but c_2 (1 + 2 alpha^2) D_rho is no bound either: for alpha >= 1 nothing keeps X-SAM from
standing still, or from climbing, along v, whatever rho is.

What holds, under the theorem's own assumptions and its step size, for alpha < 1:

    mean ||grad f(x_t)||^2 <= (4 beta Delta / T + 3 sqrt(beta Delta sigma^2 / T) + D_rho)
                              / (1 - alpha),

and D_rho <= beta^2 rho^2 for X-SAM's own perturbation, which has ||eps_t|| = 1.

Proof. P = I - alpha v v^T satisfies (1 - alpha) I <= P <= I, hence P^2 <= P. With beta-smoothness,
E||P h_hat||^2 <= <h, P h> + sigma^2 and 2 <g, P h> = <g, P g> + <h, P h> - <g - h, P (g - h)>,

    E f(x') <= f(x) - eta <g, P h> + beta eta^2 / 2 (<h, P h> + sigma^2)
            <= f(x) - eta (1 - alpha) / 2 ||g||^2 + eta / 2 D_rho + beta eta^2 sigma^2 / 2

for eta <= 1 / beta. Sum over t and insert eta.

This is about the operator P on the gradient as it is, with noise that does not know the
perturbation: xsam(correction="projector", normalize=False), and neither Eq. 9, nor Eq. 11, nor
Algorithm 2's one mini-batch for both gradients. Each of these three takes away the unbiasedness on
which the theorem rests (test_noise.py).
"""

import math
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import xsam_jax
from tests.theory.functions import Cosines, corrected, order_of, random_cosines, unit_vector

unit_vectors = st.builds(unit_vector, st.integers(2, 6), st.integers(0, 1000))


def operator(alpha: float, v: np.ndarray) -> np.ndarray:
    return np.eye(v.size) - alpha * np.outer(v, v)


class TestOperator:
    @given(alpha=st.floats(0, 2), v=unit_vectors)
    def test_norm_is_one(self, alpha: float, v: np.ndarray) -> None:
        np.testing.assert_allclose(np.linalg.norm(operator(alpha, v), 2), 1, rtol=1e-12)

    @given(alpha=st.one_of(st.floats(-3, -0.01), st.floats(2.01, 5)), v=unit_vectors)
    def test_norm_exceeds_one_outside_of_the_interval(self, alpha: float, v: np.ndarray) -> None:
        norm = np.linalg.norm(operator(alpha, v), 2)
        np.testing.assert_allclose(norm, abs(1 - alpha), rtol=1e-12)
        assert norm > 1

    @given(alpha=st.floats(0, 2), v=unit_vectors)
    def test_is_a_projector_at_0_and_1_only(self, alpha: float, v: np.ndarray) -> None:
        p = operator(alpha, v)
        # P P - P = alpha (alpha - 1) v v^T
        np.testing.assert_allclose(np.linalg.norm(p @ p - p, 2), alpha * abs(alpha - 1), atol=1e-12)

    @settings(max_examples=20, deadline=None)
    @given(alpha=st.floats(0, 2), seed=st.integers(0, 1000))
    def test_is_what_xsam_applies(self, alpha: float, seed: int) -> None:
        v, grads = unit_vector(4, seed), 3 * jnp.asarray(unit_vector(4, seed + 1))
        direction = corrected(grads, v, alpha, correction="projector")
        np.testing.assert_allclose(direction, operator(alpha, v) @ grads, atol=1e-14)
        assert jnp.linalg.norm(direction) <= jnp.linalg.norm(grads) * (1 + 1e-14)

    @settings(max_examples=20, deadline=None)
    @given(alpha=st.floats(0.1, 2), seed=st.integers(0, 1000))
    def test_does_not_cover_equation_11(self, alpha: float, seed: int) -> None:
        # Where <g, v> < 0 the sign factor turns I - alpha v v^T into I + alpha v v^T.
        v, grads = unit_vector(4, seed), 3 * jnp.asarray(unit_vector(4, seed + 1))
        along = float(grads @ v)
        v = -np.sign(along) * v
        direction = corrected(grads, v, alpha, correction="signed")
        np.testing.assert_allclose(direction, operator(-alpha, v) @ grads, atol=1e-14)
        np.testing.assert_allclose(
            jnp.sum(direction**2),
            jnp.sum(grads**2) + (2 * alpha + alpha**2) * along**2,
            rtol=1e-12,
        )


def step_size(f: Cosines, w: chex.Array, sigma: float, steps: int) -> tuple[float, float, float]:
    """Compute Theorem 5.1's ``(eta, beta, Delta)``, with upper bounds of the last two."""
    beta, delta = f.bound(2), float(f.loss(w)) + f.bound(0)
    noise = math.sqrt(delta / (beta * sigma**2 * steps)) if sigma else math.inf
    return min(1 / (2 * beta), noise), beta, delta


@partial(jax.jit, static_argnames="steps")
def squared_gradients(
    f: Cosines,
    w: chex.Array,
    v: chex.Array,
    key: chex.PRNGKey,
    *,
    eta: float,
    sigma: float,
    steps: int,
    alpha: float,
    rho: float,
) -> chex.Array:
    """Run X-SAM with noise of variance sigma^2: ||grad f(x_t)||^2 and f(x_t), [steps, 2].

    The perturbation comes from the exact gradient, so that it is independent of the noise, as the
    theorem assumes. The eigenvector is that of each step, by power iteration from ``v``.
    """
    tracker = xsam_jax.power_iteration(every=1, iters=5, warm_start=True, start=jnp.ones_like(v))
    method = xsam_jax.xsam(rho, alpha, eigenvector=tracker, correction="projector", normalize=False)

    def step(carry: Any, key: chex.PRNGKey) -> tuple[Any, chex.Array]:
        w, state = carry
        noise = sigma / w.size**0.5 * jax.random.normal(key, w.shape)
        grads = f.grad(w)
        direction, state = method.update(grads, state, w, grad_fn=lambda w: f.grad(w) + noise)
        return (w - eta * direction, state), jnp.stack([jnp.sum(grads**2), f.loss(w)])

    state = method.init(w)._replace(eigenvector=v)
    _, history = lax.scan(step, (w, state), jax.random.split(key, steps))
    return history


class TestConvergence:
    @pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5])
    def test_falls_like_the_inverse_root_of_the_steps(self, alpha: float) -> None:
        f, w, sigma, rho = random_cosines(3), jnp.full(5, 0.5), 4.0, 1e-3
        keys = jax.random.split(jax.random.key(0), 16)
        lengths, means = np.array([128, 512, 2048]), []
        for steps in lengths:
            eta, beta, delta = step_size(f, w, sigma, int(steps))
            run = partial(
                squared_gradients, f, w, w / jnp.linalg.norm(w),
                eta=eta, sigma=sigma, steps=int(steps), alpha=alpha, rho=rho,
            )  # fmt: skip
            means.append(float(jnp.mean(jax.vmap(run)(keys)[:, :, 0])))
            bound = 4 * beta * delta / steps + 3 * math.sqrt(beta * delta * sigma**2 / steps)
            assert means[-1] <= (bound + (beta * rho) ** 2) / (1 - alpha)
        assert -0.65 < order_of(lengths, np.array(means)) < -0.35

    @pytest.mark.parametrize("alpha", [0.2, 0.8])
    def test_floor_is_that_of_the_radius(self, alpha: float) -> None:
        # Without noise: the printed floor does not know rho, the measured one falls as rho^2.
        f, w = random_cosines(3), jnp.full(5, 0.5)
        eta, beta, delta = step_size(f, w, 0.0, 4000)
        radii, floors = np.array([0.1, 0.03, 0.01]), []
        for rho in radii:
            history = squared_gradients(
                f, w, w / jnp.linalg.norm(w), jax.random.key(0),
                eta=eta, sigma=0.0, steps=4000, alpha=alpha, rho=float(rho),
            )  # fmt: skip
            floors.append(float(jnp.mean(history[2000:, 0])))
            assert floors[-1] <= (beta * rho) ** 2 / (1 - alpha)
            total = (4 * beta * delta / 4000 + (beta * rho) ** 2) / (1 - alpha)
            assert jnp.mean(history[:, 0]) <= total
        np.testing.assert_allclose(order_of(radii, np.array(floors)), 2, atol=0.1)


class TestCounterexamples:
    """On f = -a cos x - cos y at (1/2, 0): the gradient is a sin(1/2) v for the eigenvector v."""

    @staticmethod
    def run(a: float, alpha: float, steps: int, rho: float = 0.1) -> chex.Array:
        f = Cosines(jnp.array([-a, -1.0]), jnp.eye(2))
        w, v = jnp.array([0.5, 0.0]), jnp.array([1.0, 0.0])
        eta, _, _ = step_size(f, w, 0.0, steps)
        return squared_gradients(
            f, w, v, jax.random.key(0), eta=eta, sigma=0.0, steps=steps, alpha=alpha, rho=rho
        )

    @pytest.mark.parametrize(("a", "rho"), [(10.0, 0.1), (1000.0, 0.1), (10.0, 1e-6)])
    def test_alpha_1_stands_still(self, a: float, rho: float) -> None:
        """The mean is (a sin(1/2))^2 for all T.

        The printed bound tends to 3 c_2, for all a, and with D_rho in it to 0 with rho.
        """
        mean = jnp.mean(self.run(a, 1.0, 500, rho)[:, 0])
        np.testing.assert_allclose(mean, (a * np.sin(0.5)) ** 2, rtol=1e-12)

    def test_alpha_above_1_climbs(self) -> None:
        losses = self.run(10.0, 1.5, 40)[:, 1]
        assert np.all(np.diff(losses) > 0)
        np.testing.assert_allclose(losses[-1], 9, atol=0.1)  # the maximum along x

    def test_alpha_below_1_converges(self) -> None:
        squared = self.run(10.0, 0.8, 500)[:, 0]
        assert jnp.mean(squared[250:]) < 1e-3 * squared[0]
