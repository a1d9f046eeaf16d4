"""Equations 5 and 6: the quadratic form of a step, and what it says about curvature.

Both are identities of linear algebra. But dw.T H dw is twice the second-order change of the *loss*.
It does not tell how the curvature changes, which is the third derivative's to say: a step that
minimises a quadratic function makes it as large as one likes and leaves the curvature alone. So it
follows neither that a step along v_1 "substantially increases the curvature" (after Eq. 5), nor
that the eigenvalue "remains almost unchanged" by an orthogonal one (after Eq. 6).
"""

import jax
import numpy as np
import pytest

from tests.theory.functions import Valley, leading_eigenpair, order_of, random_cosines


def test_equation_5() -> None:
    f, w = random_cosines(0), jax.random.normal(jax.random.key(0), (5,))
    hessian = np.asarray(f.hessian(w))
    top, v = leading_eigenpair(hessian)
    eta, alpha = 0.1, 3.0
    step = -eta * alpha * v
    np.testing.assert_allclose(step @ hessian @ step, (eta * alpha) ** 2 * top, rtol=1e-12)


def test_equation_6_sums_to_the_quadratic_form() -> None:
    f, w = random_cosines(0), jax.random.normal(jax.random.key(0), (5,))
    hessian, g, eta = np.asarray(f.hessian(w)), np.asarray(f.grad(w)), 0.1
    values, vectors = np.linalg.eigh(hessian)
    contributions = values * eta**2 * (g @ vectors) ** 2
    np.testing.assert_allclose(np.sum(contributions), eta**2 * g @ hessian @ g, rtol=1e-12)


def test_quadratic_form_is_twice_the_second_order_change_of_the_loss() -> None:
    f, w = random_cosines(0), jax.random.normal(jax.random.key(0), (5,))
    hessian, g = f.hessian(w), f.grad(w)
    sizes = np.geomspace(1e-3, 1e-1, 6)
    _, v = leading_eigenpair(hessian)
    remainders = [
        float(f.loss(w + t * v) - f.loss(w) - t * (g @ v) - t**2 * (v @ hessian @ v) / 2)
        for t in sizes
    ]
    np.testing.assert_allclose(order_of(sizes, np.array(remainders)), 3, atol=0.1)


@pytest.mark.parametrize("third", [-4.0, 0.0, 4.0])
def test_equation_5_does_not_tell_the_change_of_curvature(third: float) -> None:
    """f(w) = w + w^2 + third w^3 / 6 at 0: gradient 1, Hessian 2, and any change of it."""
    eta, gradient, hessian = 0.1, 1.0, 2.0
    # Aligned with v_1 = 1, with alpha = 1, as the paper assumes: Eq. 5 is the same for all three.
    step = -eta * gradient
    np.testing.assert_allclose(step * hessian * step, eta**2 * hessian)
    change = jax.hessian(lambda w: w + w**2 + third * w**3 / 6)(step) - hessian
    np.testing.assert_allclose(change, -eta * third, atol=1e-15)


def test_equation_6_does_not_tell_the_change_of_curvature() -> None:
    """A step down a valley's floor: orthogonal to v_1, Eq. 6 is zero, and lambda_1 halves."""
    valley = Valley(top=4.0, second=1.0, bend=2.0, mixing=0.0, slope=1.0)
    w, g = np.zeros(3), valley.grad(np.zeros(3))
    top, v = leading_eigenpair(valley.hessian(w))
    assert top * (v @ g) ** 2 == 0
    np.testing.assert_allclose(leading_eigenpair(valley.hessian(w - g))[0], top / 2, rtol=1e-12)
