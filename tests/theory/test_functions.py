"""The closed forms of the theorems' functions against automatic differentiation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.theory.functions import Valley, random_cosines


@pytest.mark.parametrize("dimension", [5, 3])
def test_derivatives(dimension: int) -> None:
    f: Any = random_cosines(0) if dimension == 5 else Valley(3.0, 1.0, 2.0, -1.0, 0.5)
    w = jax.random.normal(jax.random.key(0), (dimension,))
    gradient, hessian = jax.jit(lambda w: (jax.grad(f.loss)(w), jax.hessian(f.loss)(w)))(w)
    np.testing.assert_allclose(f.grad(w), gradient, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(f.hessian(w), hessian, rtol=1e-12, atol=1e-12)


def test_third_derivative_and_its_bound() -> None:
    f = random_cosines(0)
    w, a, b = jax.random.normal(jax.random.key(0), (3, 5))
    _, change = jax.jvp(f.hessian, (w,), (a,))
    np.testing.assert_allclose(f.third(w, a, b), change @ b, rtol=1e-12)
    norms = jnp.linalg.norm(a) * jnp.linalg.norm(b)
    assert jnp.linalg.norm(f.third(w, a, b)) <= f.bound(3) * norms
