"""Long sums in float32 are right to a few roundings, whatever kernel the compiler takes.

Equal numbers show it: added one after the other, a million of them lose four digits.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import xsam_jax
from tests.meshes import mesh_of
from xsam_jax import _inner_products, _linalg, _sums, curvature
from xsam_jax.curvature import _lanczos

FEW_ROUNDINGS = 8 * float(np.finfo(np.float32).eps) / 2
NUMBERS = [0.1, 1 / 3, 1.0000001, 1e-3]
SIZES = [100_003, 2**20, 5_000_000]


def equal(number: float, *shape: int) -> Any:
    return jnp.full(shape, number, jnp.float32)


def in_a_loop(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compute in the second round of a loop, whose operands the compiler does not know."""

    def looped(*args: Any) -> Any:
        shape = jax.eval_shape(function, *args)

        def again(_: int, result: Any) -> Any:
            unknown = jnp.sum(result * 0)
            first = jax.tree.map(lambda leaf: leaf + unknown, args[0])
            return function(first, *args[1:])

        return lax.fori_loop(0, 2, again, jnp.zeros(shape.shape, shape.dtype))

    return looped


WAYS = pytest.mark.parametrize("way", [jax.jit, lambda f: jax.jit(in_a_loop(f)), lambda f: f])


def check(found: Any, number: float, size: int) -> None:
    exact = float(np.float32(number)) * size
    np.testing.assert_allclose(np.asarray(found, float), exact, rtol=FEW_ROUNDINGS)


@WAYS
@pytest.mark.parametrize(
    ("size", "rows"),
    [*itertools.product(SIZES, [(), (1,), (3,)]), (7, ()), (64, (1,)), (65, (3,)), (4096, (3,))],
)
def test_rows(size: int, rows: tuple[int, ...], way: Any) -> None:
    along_rows, inner_products = way(_sums.along_rows), way(_sums.inner_products)
    ones = equal(1, *rows, size)
    for number in NUMBERS:
        x = equal(number, *rows, size)
        check(along_rows(x), number, size)
        check(inner_products(x, ones), number, size)


@WAYS
@pytest.mark.parametrize(
    "shapes",
    [
        [(100_003,)],
        [(1_250, 4_000), (3, 3, 64, 128), (7,)],
        [(2**22 + 5,), (2**23,)],
        [(5,)] * 3,
    ],
)
def test_trees(shapes: list[tuple[int, ...]], way: Any) -> None:
    number, size = 0.1, sum(map(np.prod, shapes))
    tree, ones = ([equal(value, *shape) for shape in shapes] for value in (number, 1))
    check(way(_inner_products.vdot)(tree, ones), number, size)
    check(way(lambda a, b: _inner_products.vdots((a, b), (b, a)))(tree, ones), number, size)
    products = way(_inner_products.gram)(tree, ones)
    check(products[0, 1], number, size)
    check(products[1, 1], 1, size)
    norm = way(_linalg.norm)(tree)
    np.testing.assert_allclose(norm, float(np.float32(0.1)) * size**0.5, rtol=FEW_ROUNDINGS)


def test_a_hundred_million_numbers() -> None:
    x, ones = equal(0.1, 10**8), equal(1, 10**8)
    check(jax.jit(_inner_products.vdot)(x, ones), 0.1, 10**8)
    check(jax.jit(_sums.along_rows)(x), 0.1, 10**8)


@pytest.mark.parametrize("shape", [(2**20,), (8 * 1024, 64), (100_000, 2), (3, 100_003)])
def test_what_is_divided_among_devices(shape: tuple[int, ...]) -> None:
    """Where an axis has whole blocks on every device; the other sums are the compiler's."""
    mesh, size = mesh_of(8), int(np.prod(shape))
    sharding = jax.NamedSharding(mesh, jax.P("data" if shape[0] % 8 == 0 else None))
    x, ones = (jax.device_put(equal(value, *shape), sharding) for value in (0.1, 1))
    with jax.set_mesh(mesh):
        found = jax.jit(_inner_products.vdot)(x, ones)
    tolerance = FEW_ROUNDINGS if shape[-1] % 512 == 0 else 1e-3
    np.testing.assert_allclose(found, float(np.float32(0.1)) * size, rtol=tolerance)


@WAYS
@pytest.mark.parametrize("size", SIZES)
def test_lanczos(size: int, way: Any) -> None:
    row_norms = way(_lanczos.row_norms)
    for number in NUMBERS:
        norms = row_norms(equal(number, 3, size))
        np.testing.assert_allclose(
            np.asarray(norms, float), float(np.float32(number)) * size**0.5, rtol=FEW_ROUNDINGS
        )


@pytest.mark.parametrize("size", [100_003, 2_000_000])
def test_trace_and_eigenvalue_of_a_multiple_of_the_identity(size: int) -> None:
    w, key = jnp.zeros(size, jnp.float32), jax.random.key(0)
    grad_fn = lambda w: jnp.float32(0.1) * w
    estimate = jax.jit(lambda w: curvature.trace(grad_fn, w, num_probes=2, key=key))(w)
    check(estimate.value, 0.1, size)
    pairs = jax.jit(lambda w: curvature.top_eigenpairs(grad_fn, w, num_matvecs=2, key=key))(w)
    check(pairs.values[0], 0.1, 1)


@pytest.mark.parametrize("way", [jax.jit, lambda f: f])
@pytest.mark.parametrize("count", [1_000, 300_000])
def test_mean_gradient_of_many_batches(count: int, way: Any) -> None:
    """And the Hessian products through it."""
    batches, w = equal(0.1, count, 1), jnp.ones(1, jnp.float32)
    gradient = xsam_jax.mean_grad_fn(lambda w, x: jnp.sum(w**2 * x) / 2, batches)
    check(way(gradient)(w), 0.1, 1)
    check(way(lambda w: curvature.hvp(gradient, w, w))(w), 0.1, 1)


@pytest.mark.parametrize("size", [100_003, 2**20])
def test_sums_that_cancel(size: int) -> None:
    """Errors stay a few roundings of the largest partial sum, not of the number of terms."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=size).astype(np.float32)
    exact = np.sum(x.astype(float) ** 2)
    np.testing.assert_allclose(jax.jit(_inner_products.vdot)(x, x), exact, rtol=FEW_ROUNDINGS)
    plain = np.sum(x.astype(float))
    found = float(jax.jit(_sums.along_rows)(x))
    assert abs(found - plain) < FEW_ROUNDINGS * size**0.5 * 4
