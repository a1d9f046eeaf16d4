"""Theorem 5.2: lambda_1(H + D) <= lambda_1(H) + v_1.T D v_1 + 4 (||H|| + s) s / (gamma - s).

Inequality 13 holds, but says nothing. As gamma <= 2 ||H||, its last term is at least 2 s, and
v_1.T D v_1 is at least -s, so its right side is never below lambda_1(H) + s, which is Weyl's
bound and needs no assumption. It cannot show that an eigenvalue falls: it is no "sufficient
condition" for flattening, for X-SAM's direction or any other.

What can: in the basis of v_1 and its complement H + D is [[a, b.T], [b, C]] with
a = lambda_1 + v_1.T D v_1, ||b|| <= s and C <= lambda_2 + s, so for s < gamma / 2

    lambda_1(H + D) <= lambda_1(H) + v_1.T D v_1 + s^2 / (gamma - 2 s).
"""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.theory.functions import leading_eigenpair, order_of, random_cosines


def symmetric(rng: np.random.Generator, size: int) -> np.ndarray:
    matrix = rng.normal(size=(size, size))
    return (matrix + matrix.T) / 2


def gap(h: np.ndarray) -> float:
    values = np.linalg.eigvalsh(h)
    return float(values[-1] - values[-2])


def first_order(h: np.ndarray, d: np.ndarray) -> float:
    """Estimate the eigenvalue to first order: ``lambda_1(H) + v_1.T D v_1``."""
    top, v = leading_eigenpair(h)
    return top + float(v @ d @ v)


def printed_remainder(h: np.ndarray, s: float) -> float:
    return 4 * (float(np.linalg.norm(h, 2)) + s) / (gap(h) - s) * s


@st.composite
def perturbed(draw: st.DrawFn, largest: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Draw H, D and s = ||D|| below ``largest`` times the gap; D is random, or -s v_1 v_1.T."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    size = draw(st.integers(2, 8))
    # Shifts make H definite, and of a norm from half its gap to many times it.
    h = symmetric(rng, size) + draw(st.floats(-5, 5)) * np.eye(size)
    direction = symmetric(rng, size)
    if draw(st.booleans()):
        _, v = leading_eigenpair(h)
        direction = -np.outer(v, v)
    s = draw(st.floats(0.01, 0.99)) * largest * gap(h)
    return h, s * direction / np.linalg.norm(direction, 2), s


@given(perturbed(largest=1.0))
def test_inequality_13(case: tuple[np.ndarray, np.ndarray, float]) -> None:
    h, d, s = case
    bound = first_order(h, d) + printed_remainder(h, s)
    assert leading_eigenpair(h + d)[0] <= bound


@given(perturbed(largest=1.0))
def test_inequality_13_never_shows_a_decrease(case: tuple[np.ndarray, np.ndarray, float]) -> None:
    h, d, s = case
    top = leading_eigenpair(h)[0]
    # Weyl's bound is sharper, and Weyl's bound is above lambda_1(H).
    assert first_order(h, d) + printed_remainder(h, s) >= (top + s) * (1 - 1e-12 * np.sign(top))
    # Even where the eigenvalue falls by all of s.
    _, v = leading_eigenpair(h)
    fall = -s * np.outer(v, v)
    assert leading_eigenpair(h + fall)[0] < top < first_order(h, fall) + printed_remainder(h, s)


@given(perturbed(largest=0.5))
def test_second_order_bound(case: tuple[np.ndarray, np.ndarray, float]) -> None:
    h, d, s = case
    rounding = 1e-12 * (np.linalg.norm(h, 2) + s)
    remainder = leading_eigenpair(h + d)[0] - first_order(h, d)
    assert -rounding <= remainder <= s**2 / (gap(h) - 2 * s) + rounding


def test_second_order_bound_shows_a_decrease() -> None:
    h = np.diag([4.0, 1.0, 0.0])
    d = np.array([[-0.3, 0.1, 0.0], [0.1, 0.2, 0.1], [0.0, 0.1, 0.1]])
    s = float(np.linalg.norm(d, 2))
    bound = first_order(h, d) + s**2 / (3 - 2 * s)
    assert leading_eigenpair(h + d)[0] <= bound < 4 < first_order(h, d) + printed_remainder(h, s)


def test_printed_remainder_is_first_order_the_true_one_second() -> None:
    rng = np.random.default_rng(0)
    h, d = symmetric(rng, 6), symmetric(rng, 6)
    sizes = gap(h) / np.linalg.norm(d, 2) * np.geomspace(1e-4, 1e-2, 5)
    true = [leading_eigenpair(h + t * d)[0] - first_order(h, t * d) for t in sizes]
    printed = [printed_remainder(h, t * np.linalg.norm(d, 2)) for t in sizes]
    np.testing.assert_allclose(order_of(sizes, np.array(true)), 2, atol=0.05)
    np.testing.assert_allclose(order_of(sizes, np.array(printed)), 1, atol=0.05)


def test_step_changes_the_hessian_by_at_most_its_third_derivative() -> None:
    """The theorem's s is at most M_3 ||dx||."""
    f = random_cosines(0)
    steps = jax.random.normal(jax.random.key(1), (20, 5))
    w = jax.random.normal(jax.random.key(2), (5,))
    for dx in steps:
        s = np.linalg.norm(f.hessian(w + dx) - f.hessian(w), 2)
        assert s <= f.bound(3) * np.linalg.norm(dx)
