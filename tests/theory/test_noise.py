"""What Theorem 5.1 leaves out: on f(x) = ||x||^2 / 2, whose gradient is x, with unbiased noise.

Its direction is P h_hat with E[h_hat] = h. X-SAM's is not: Algorithm 2 takes both gradients from
one mini-batch, Eq. 9 divides by a norm that knows the noise, and Eq. 11 takes an absolute value.
"""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import xsam_jax
from tests.theory.functions import corrected


def test_shared_batch_breaks_the_unbiasedness_that_is_assumed() -> None:
    """E[h_hat | eps] = h fails for Algorithm 2, whose two gradients share their noise.

    For one parameter and noise xi of variance 1 the perturbation is rho sign(x + xi), and the
    mean of h_hat - h = xi given a positive one is phi(x) / Phi(x), not 0.
    """
    x, rho = jnp.array([0.3]), 0.05
    method = xsam_jax.xsam(rho, 0.0, eigenvector=xsam_jax.oja(), normalize=False)

    def h_hat(noise: chex.Array) -> chex.Array:
        gradient = lambda w: w + noise  # of one mini-batch
        return method.update(gradient(x), method.init(x), x, grad_fn=gradient)[0]

    noise = jax.random.normal(jax.random.key(0), (100_000, 1))
    up = 0.3 + noise > 0
    bias = jnp.mean(lax.map(h_hat, noise, batch_size=1000)[up]) - (0.3 + rho)
    density = math.exp(-(0.3**2) / 2) / math.sqrt(2 * math.pi)
    probability = (1 + math.erf(0.3 / math.sqrt(2))) / 2
    np.testing.assert_allclose(bias, density / probability, atol=0.01)
    assert bias > 0.5


@pytest.mark.parametrize("eta", [0.1, 0.02])
@pytest.mark.parametrize("correction", ["signed", "projector"])
def test_equation_11_comes_to_rest_beside_the_minimum(correction: Any, eta: float) -> None:
    """E|<h_hat, v>| is not 0 at the minimum.

    With the sign factor the mean gradient m along v ends where m = alpha E|m + noise|, whatever the
    step size, and on the side of v's sign.
    """
    alpha, sigma = 0.2, 2.0
    length = round(20 / eta)

    def run(key: chex.PRNGKey) -> chex.Array:
        def step(x: chex.Array, key: chex.PRNGKey) -> tuple[chex.Array, chex.Array]:
            noise = sigma * jax.random.normal(key, (1,))
            return x - eta * corrected(x + noise, np.ones(1), alpha, correction), x

        _, points = lax.scan(step, jnp.zeros(1), jax.random.split(key, length))
        return jnp.mean(points[length // 2 :])

    mean = jnp.mean(jax.vmap(run)(jax.random.split(jax.random.key(0), 64)))
    m = 0.0
    for _ in range(50):  # the fixed point, E|m + noise| being a folded normal's mean
        folded = sigma * math.sqrt(2 / math.pi) * math.exp(-((m / sigma) ** 2) / 2)
        m = alpha * (folded + m * math.erf(m / sigma / math.sqrt(2)))
    assert m > 0.3
    np.testing.assert_allclose(mean, m if correction == "signed" else 0, atol=0.05)


def test_equation_9_follows_the_median_of_the_gradients() -> None:
    """Noise 6 in a quarter of the steps and else -2: X-SAM and normalised SAM go uphill."""
    method = xsam_jax.xsam(1e-6, 0.0, eigenvector=xsam_jax.oja())

    def step(carry: Any, key: chex.PRNGKey) -> tuple[Any, chex.Array]:
        x, state = carry
        noise = jnp.where(jax.random.bernoulli(key, 0.25), 6.0, -2.0)
        direction, state = method.update(x, state, x, grad_fn=lambda x: x + noise)
        return (x - 0.01 * direction, state), x

    x = jnp.ones(1)
    keys = jax.random.split(jax.random.key(0), 2000)
    _, points = lax.scan(step, (x, method.init(x)), keys)
    np.testing.assert_allclose(points[1000:], 2, atol=0.2)
