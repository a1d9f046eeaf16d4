"""Inner products of trees: the same whatever is joined, and few sums."""

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xsam_jax
from tests.meshes import mesh_of
from xsam_jax import _linalg
from xsam_jax._inner_products import _by_rows, _in_blocks, gram, vdot, vdots

SMALL = 2**12  # leaves of so many elements are summed by themselves


def _equations(tree: Any, inner_products: Any = _by_rows) -> list[Any]:
    return jax.make_jaxpr(lambda tree: inner_products((tree, tree)))(tree).eqns


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [3],
        [3, 0, 5],
        [SMALL],
        [3, SMALL, *[SMALL - 1] * 3, 5, SMALL + 1],
    ],
)
def test_inner_product_is_that_of_the_concatenation(sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    a, b = ([jnp.asarray(rng.normal(size=size)) for size in sizes] for _ in range(2))
    flat = [np.concatenate([np.zeros(0), *tree]) for tree in (a, b)]
    np.testing.assert_allclose(vdot(a, b), flat[0] @ flat[1], rtol=1e-12, atol=1e-12)
    products = np.stack(flat) @ np.stack(flat).T
    np.testing.assert_allclose(vdots((b, a), (b, b)), products[1], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gram(a, b), products, rtol=1e-12, atol=1e-12)


def test_products_with_a_leaf_that_may_be_on_a_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    """In jax 0.12 a type may tell it of one tree and not of another."""
    a, b = ([jnp.arange(size, dtype=float) + 1 for size in (3, 5)] for _ in range(2))
    there = id(b[0])
    monkeypatch.setattr(
        "xsam_jax._placement.on_no_mesh",
        lambda tree: there not in map(id, jax.tree.leaves(tree)),
    )
    np.testing.assert_allclose(vdots((a, a), (a, b)), [69, 69], rtol=1e-15)


@pytest.mark.parametrize(
    ("sizes", "sums"),
    [
        ([3], 1),
        ([SMALL - 1] * 5, 1),
        ([SMALL] * 5, 5),
        ([SMALL, *[SMALL - 1] * 5, SMALL, 1], 3),
    ],
)
def test_small_leaves_are_one_sum(sizes: list[int], sums: int) -> None:
    tree = [jax.ShapeDtypeStruct((size,), jnp.float32) for size in sizes]
    reduced = [
        math.prod(equation.invars[0].aval.shape)
        for equation in _equations(tree)
        if equation.primitive.name == "reduce_sum"
    ]
    *of_leaves, of_sums = reduced
    assert (len(of_leaves), of_sums) == (sums, sums)
    small = sum(size for size in sizes if size < SMALL)
    assert of_leaves == [size for size in sizes if size >= SMALL] + [small] * (small > 0)


@pytest.mark.parametrize(
    ("shape", "summed"),
    [
        ((64, 128), 128),
        ((256, 31), None),  # rows that are too short
        ((4, 64, 32), 32),
        ((3, 3, 64, 128), 64),  # the input features of a convolution
        ((3, 3, 32, 256), 32),
        ((3, 3, 3, 64, 128), 64),
        ((4, 64, 4, 128), 128),
        ((3, 3, 64, 8), 64),
        ((SMALL,), None),
    ],
)
def test_rows_are_summed_first(shape: tuple[int, ...], summed: int | None) -> None:
    """On a GPU the sum of a whole array is two kernels."""
    of_leaf, of_rows = (
        equation
        for equation in _equations(jnp.ones(shape))
        if equation.primitive.name == "reduce_sum"
    )
    axes = of_leaf.params["axes"]
    assert [shape[axis] for axis in axes] == ([summed] if summed else list(shape))
    assert of_rows.invars[0].aval.shape == (1, math.prod(shape) // (summed or math.prod(shape)))


@pytest.mark.parametrize("inner_products", [_by_rows, _in_blocks])
def test_nothing_but_scalars_on_a_mesh(inner_products: Any) -> None:
    with jax.set_mesh(mesh_of(2)):
        tree = [jnp.ones((64, 128)), jnp.ones((3, 3, 64, 64)), jnp.ones(3)]
        equations = _equations(tree, inner_products)
    (joined,) = [e for e in equations if e.primitive.name == "concatenate"]
    assert [operand.aval.shape for operand in joined.invars] == [(1,)] * 3


def test_a_large_leaf_is_not_copied() -> None:
    equations = _equations(jnp.ones((64, 64)))
    assert all(out.aval.shape != (SMALL,) for equation in equations for out in equation.outvars)


def test_reciprocal_of_zero_is_zero_and_so_is_its_derivative() -> None:
    x = jnp.array([-2.0, 0.0, 0.25])
    np.testing.assert_array_equal(_linalg.reciprocal(x), [-0.5, 0, 4])
    slopes = jax.vmap(jax.grad(_linalg.reciprocal))(x)
    np.testing.assert_array_equal(slopes, [-0.25, 0, -16])


def test_root_of_zero_is_zero_and_so_is_its_derivative() -> None:
    x = jnp.array([-1.0, 0.0, 4.0])
    np.testing.assert_array_equal(_linalg.root(x), [np.nan, 0, 2])
    np.testing.assert_array_equal(jax.vmap(jax.grad(_linalg.root))(x[1:]), [0, 0.25])


def test_a_unit_vector_has_norm_one_or_zero_however_small_the_numbers() -> None:
    """Of numbers near 1e-19 some have a square in float32 and others have none."""
    normal = jnp.asarray(np.random.default_rng(0).normal(size=10_000), jnp.float32)
    exponents = np.arange(-149, 0, dtype=np.float32)
    units = jax.vmap(lambda exponent: _linalg.unit(normal * jnp.exp2(exponent)))(exponents)
    norms = np.linalg.norm(np.asarray(units, float), axis=1)
    known = norms > 0
    np.testing.assert_array_equal(known, exponents >= min(exponents[known]))
    assert -64 < min(exponents[known]) < -54
    np.testing.assert_allclose(norms[known], 1, atol=0.05)


def test_reciprocal_computes_no_infinity_on_the_way() -> None:
    with jax.debug_infs(True):
        assert _linalg.reciprocal(jnp.zeros(())) == 0


def test_trees_of_different_sizes_have_no_inner_product() -> None:
    with pytest.raises(ValueError, match="zip"):
        vdot([jnp.ones(2)], [jnp.ones(2), jnp.ones(3)])


def test_float64_of_numpy_is_float32_without_64_bits() -> None:
    """Nor does it warn: JAX takes such parameters and gradients for float32."""
    w = np.ones(3)
    gradient = lambda w: w**3
    with jax.enable_x64(False), warnings.catch_warnings():
        warnings.simplefilter("error")
        for tracker in (xsam_jax.power_iteration(start=w), xsam_jax.oja(), xsam_jax.subspace()):
            tx = xsam_jax.xsam(eigenvector=tracker)
            update = lambda tx=tx: tx.update(gradient(w), tx.init(w), w, grad_fn=gradient)
            direction, state = jax.eval_shape(update)
            assert direction.dtype == state.eigenvector.dtype == jnp.float32
        pairs = jax.eval_shape(
            lambda: xsam_jax.curvature.top_eigenpairs(gradient, w, key=jax.random.key(0))
        )
        assert pairs.vectors.dtype == xsam_jax.curvature.angle(w, w).dtype == jnp.float32
