"""Theorem 5.3: the leading eigenvalue after a step orthogonal to its eigenvector.

    |lambda_1(w - eta g) - lambda_1(w)| <= eta epsilon ||g|| + O(eta^2 ||g||^2 (1 + 1 / gamma))

with epsilon >= ||(I - v_1 v_1.T) grad lambda_1|| holds: the first-order change is
-eta <grad lambda_1, g>, grad lambda_1 the third derivative along (v_1, v_1). But orthogonality of g
to v_1 alone does not make it small. It takes the assumption on epsilon too, about another vector,
which nothing in X-SAM provides: in a valley whose steepness changes along its floor an orthogonal
step attains the bound, and a step along v_1 changes lambda_1 at the second order only. So "the SAM
update has only a very limited effect" does not follow from orthogonality; if it did, it would hold
for X-SAM, whose step at alpha = 1 is the orthogonal one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xsam_jax
from tests.theory.functions import Valley, leading_eigenpair, order_of, random_cosines

ETAS = np.geomspace(1e-4, 1e-2, 6)


def eigenvalue_change(valley: Valley, step: np.ndarray) -> float:
    """Compute the change of lambda_1 by a step from the origin."""
    return leading_eigenpair(valley.hessian(step))[0] - valley.top


@pytest.mark.parametrize("seed", range(5))
def test_first_order_change_with_a_quadratic_remainder(seed: int) -> None:
    f = random_cosines(seed)
    w, g = jax.random.normal(jax.random.key(seed), (2, 5))
    top, v = leading_eigenpair(f.hessian(w))
    gap = top - np.linalg.eigvalsh(f.hessian(w))[-2]
    g = np.asarray(g) - v * (v @ g)
    gradient = np.asarray(f.third(w, v, v))
    epsilon = np.linalg.norm(gradient - v * (v @ gradient))
    etas = ETAS * gap / (f.bound(3) * np.linalg.norm(g))

    changes = np.array([leading_eigenpair(f.hessian(w - eta * g))[0] - top for eta in etas])
    remainders = changes + etas * (gradient @ g)
    np.testing.assert_allclose(order_of(etas, remainders), 2, atol=0.1)

    # Where ||H(w') - H(w)|| < gamma / 4, the gap stays above gamma / 2 and
    # |d^2 lambda_1| <= (M_4 + 4 M_3^2 / gamma) ||dw||^2.
    squares = (etas * np.linalg.norm(g)) ** 2
    bound = squares * (f.bound(4) + 4 * f.bound(3) ** 2 / gap) / 2
    assert np.all(np.abs(remainders) <= bound)
    assert np.all(np.abs(changes) <= etas * epsilon * np.linalg.norm(g) + bound)


@pytest.mark.parametrize("gap", [0.5, 1.0, 2.0])
def test_remainder_is_inverse_to_the_gap(gap: float) -> None:
    valley = Valley(top=3.0, second=3.0 - gap, bend=0.0, mixing=2.0, slope=1.5)
    changes = [eigenvalue_change(valley, np.array([0, 0, -eta * valley.slope])) for eta in ETAS]
    np.testing.assert_allclose(order_of(ETAS, np.array(changes)), 2, atol=0.05)
    smallest = (valley.mixing * ETAS[0] * valley.slope) ** 2 / gap
    np.testing.assert_allclose(changes[0], smallest, rtol=1e-3)


@pytest.mark.parametrize("bend", [2.0, -2.0])
def test_orthogonal_step_attains_the_bound(bend: float) -> None:
    valley = Valley(top=3.0, second=1.0, bend=bend, mixing=0.0, slope=1.5)
    _, v = leading_eigenpair(valley.hessian(np.zeros(3)))
    g = valley.grad(np.zeros(3))
    assert v @ g == 0
    # grad lambda_1 = (0, 0, bend) is orthogonal to v_1 too, hence epsilon = |bend|.
    for eta in ETAS:
        change = eigenvalue_change(valley, -eta * g)
        np.testing.assert_allclose(change, -eta * bend * valley.slope, rtol=1e-9)
        np.testing.assert_allclose(abs(change), eta * abs(bend) * np.linalg.norm(g), rtol=1e-9)
        # A step of the same length along v_1 changes it at the second order only.
        along = eigenvalue_change(valley, np.array([eta * valley.slope, 0, 0]))
        assert abs(along) <= 10 * (eta * valley.slope) ** 2


def test_double_eigenvalue_has_no_bound() -> None:
    """The gap is needed: at gamma = 0 and epsilon = 0 the change is of the first order."""
    valley = Valley(top=3.0, second=3.0, bend=0.0, mixing=2.0, slope=1.5)
    for eta in ETAS:
        change = eigenvalue_change(valley, np.array([0, 0, -eta * valley.slope]))
        np.testing.assert_allclose(change, eta * valley.mixing * valley.slope, rtol=1e-9)


def test_fully_corrected_step_is_the_orthogonal_one() -> None:
    f, w = random_cosines(1), jax.random.normal(jax.random.key(0), (5,))
    _, v = leading_eigenpair(f.hessian(w))
    method = xsam_jax.xsam(0.1, alpha=1.0, correction="projector")
    state = method.init(w)._replace(memory=jnp.int32(1), eigenvector=jnp.asarray(v))
    direction, _ = method.update(f.grad(w), state, w, grad_fn=f.grad)
    assert jnp.linalg.norm(direction) > 0.1
    np.testing.assert_allclose(v @ direction, 0, atol=1e-14)
