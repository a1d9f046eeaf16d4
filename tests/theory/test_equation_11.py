"""Equation 11 does what section 4.2 asks for: it never lessens the angle from gradient to v.

But v and -v are the same eigenvector. Where the angle is above 90 degrees, to enlarge it is to turn
the step towards the eigenvector's line: the component along v, which the text says is attenuated,
is 1 + alpha times what it was. The operator of Theorem 5.1 never turns the step towards that line,
on either side, for alpha in [0, 2].
"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.theory.functions import corrected, cosine, unit_vector

of_any_gradient = given(alpha=st.floats(0, 2), seed=st.integers(0, 10_000))


@settings(deadline=None)
@of_any_gradient
def test_equation_11_never_lessens_the_angle(alpha: float, seed: int) -> None:
    u, v = unit_vector(4, seed), unit_vector(4, seed + 1)
    direction = np.asarray(corrected(u, v, alpha, correction="signed"))
    assert cosine(direction, v) <= cosine(u, v) + 1e-12
    np.testing.assert_allclose(direction @ v, u @ v - alpha * abs(u @ v), atol=1e-14)
    if u @ v < 0:
        np.testing.assert_allclose(direction @ v, (1 + alpha) * (u @ v), atol=1e-14)
        assert abs(cosine(direction, v)) >= abs(cosine(u, v)) - 1e-12


@settings(deadline=None)
@of_any_gradient
def test_the_projector_never_turns_towards_the_line(alpha: float, seed: int) -> None:
    u, v = unit_vector(4, seed), unit_vector(4, seed + 1)
    direction = np.asarray(corrected(u, v, alpha, correction="projector"))
    assert abs(cosine(direction, v)) <= abs(cosine(u, v)) + 1e-12
