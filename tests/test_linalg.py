"""Inner products of trees: the same whatever is joined, and few sums."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xsam_jax import _linalg

JOINED = 2**14  # leaves of more elements are summed by themselves
FEW = 10  # and so many small ones too


def _equations(tree: Any) -> list[Any]:
    return jax.make_jaxpr(_linalg.norm)(tree).eqns


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [3],
        [3, 0, 5],
        [JOINED + 1],
        [3, JOINED + 1, *[JOINED] * FEW, 5],
        [*range(FEW + 1), JOINED + 1],
    ],
)
def test_inner_product_is_that_of_the_concatenation(sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    a, b = ([jnp.asarray(rng.normal(size=size)) for size in sizes] for _ in range(2))
    flat = [np.concatenate([np.zeros(0), *tree]) for tree in (a, b)]
    np.testing.assert_allclose(_linalg.vdot(a, b), flat[0] @ flat[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("sizes", "sums"),
    [
        ([JOINED] * FEW, FEW),
        ([JOINED] * (FEW + 1), 1),
        ([JOINED + 1] * (FEW + 1), FEW + 1),
        ([JOINED + 1, *[JOINED] * FEW, JOINED + 1, 1], 3),
    ],
)
def test_many_small_leaves_are_one_sum(sizes: list[int], sums: int) -> None:
    tree = [jax.ShapeDtypeStruct((size,), jnp.float32) for size in sizes]
    names = [equation.primitive.name for equation in _equations(tree)]
    assert names.count("reduce_sum") == sums + 1  # and that of the sums


def test_one_leaf_is_not_copied() -> None:
    equations = _equations(jnp.ones((2, 3)))
    assert all(out.aval.shape != (6,) for equation in equations for out in equation.outvars)


def test_reciprocal_of_zero_is_zero_and_so_is_its_derivative() -> None:
    x = jnp.array([-2.0, 0.0, 0.25])
    np.testing.assert_array_equal(_linalg.reciprocal(x), [-0.5, 0, 4])
    slopes = jax.vmap(jax.grad(_linalg.reciprocal))(x)
    np.testing.assert_array_equal(slopes, [-0.25, 0, -16])


def test_reciprocal_computes_no_infinity_on_the_way() -> None:
    with jax.debug_infs(True):
        assert _linalg.reciprocal(jnp.zeros(())) == 0


def test_trees_of_different_sizes_have_no_inner_product() -> None:
    with pytest.raises(ValueError, match="zip"):
        _linalg.vdot([jnp.ones(2)], [jnp.ones(2), jnp.ones(3)])
