"""What bfloat16 leaves of the perturbation, for the loss and for the second gradient."""

import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from tests.documents.text import ROOT
from xsam_jax import sam

RHO, WIDTH, BATCH, BATCHES = 0.02, 512, 64, 4
Params = list[jax.Array]


@pytest.fixture(autouse=True)
def in_32_bits() -> Any:
    with jax.enable_x64(False):
        yield


def norm(tree: Any) -> float:
    return float(optax.tree.norm(tree))


def along(tree: Any, other: Any) -> float:
    """Compute the component of ``tree`` along ``other``, in units of ``other``."""
    return float(optax.tree.vdot(tree, other)) / norm(other) ** 2


def cosine(tree: Any, other: Any) -> float:
    return along(tree, other) * norm(other) / norm(tree)


def cast(params: Params, dtype: Any = jnp.bfloat16) -> Params:
    return [w.astype(dtype) for w in params]


def minus(params: Params, others: Params) -> Params:
    pairs = zip(cast(params, jnp.float32), cast(others, jnp.float32), strict=True)
    return [a - b for a, b in pairs]


def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    logits = logits.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def in_float32(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    for w in params[:-1]:
        x = jax.nn.relu(x @ w)
    return cross_entropy(x @ params[-1], y)


def in_bfloat16(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    """Compute the loss with weights cast to bfloat16 where they are used."""
    x = x.astype(jnp.bfloat16)
    for w in params[:-1]:
        x = jax.nn.relu(x @ w.astype(jnp.bfloat16))
    return cross_entropy(x @ params[-1].astype(jnp.bfloat16), y)


def float32_products(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    """Compute the loss with bfloat16 activations and float32 weights."""
    x = x.astype(jnp.bfloat16)
    for w in params[:-1]:
        x = jax.nn.relu((x.astype(jnp.float32) @ w).astype(jnp.bfloat16))
    return cross_entropy(x.astype(jnp.float32) @ params[-1], y)


def stochastically(params: Params, seed: int) -> Params:
    """Round to bfloat16, up or down by chance, so that the mean is the number itself."""
    rounded = []
    for w, key in zip(params, jax.random.split(jax.random.key(seed), len(params)), strict=True):
        low = jax.random.randint(key, w.shape, 0, 1 << 16, jnp.uint32)
        bits = (jax.lax.bitcast_convert_type(w, jnp.uint32) + low) & jnp.uint32(0xFFFF0000)
        rounded.append(jax.lax.bitcast_convert_type(bits, jnp.float32).astype(jnp.bfloat16))
    return rounded


@functools.cache
def trained() -> tuple[Params, jax.Array, jax.Array]:
    """Train an MLP for 30 steps; return it with its images and labels."""
    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    keys, sizes = jax.random.split(jax.random.key(0), 3), (64, WIDTH, WIDTH, 10)
    params = [
        jax.random.normal(key, shape, jnp.float32) * np.float32(np.sqrt(2 / shape[0]))
        for key, shape in zip(keys, itertools.pairwise(sizes), strict=True)
    ]

    @jax.jit
    def step(params: Params, x: jax.Array, y: jax.Array) -> Params:
        g = jax.grad(in_float32)(params, x, y)
        return [w - 0.1 * leaf for w, leaf in zip(params, g, strict=True)]

    for k in range(30):
        some = slice(32 * k, 32 * k + 32)
        params = step(params, x[some], y[some])
    return params, x, y


Seen = tuple[Any, Any]  # the perturbation as the loss sees it, and what it does to the gradient


def second_gradient(
    loss: Callable[..., Any], params: Params, *batch: jax.Array, rho: float = RHO
) -> Seen:
    """Compute what `sam` perturbs the parameters by, and the change of the gradient there."""
    seen: list[Params] = []
    gradient = jax.jit(jax.grad(loss))
    g, tx = gradient(params, *batch), sam(rho)

    def watched(at: Params) -> Params:
        jax.debug.callback(lambda *leaves: seen.append([jnp.asarray(w) for w in leaves]), *at)
        return gradient(at, *batch)

    g_adv, _ = tx.update(g, tx.init(params), params, grad_fn=watched)
    jax.effects_barrier()
    return seen[-1], minus(g_adv, g)


def measure() -> dict[str, list[float]]:
    """Measure each way of computing, as means over batches.

    The perturbation's size, its part along the true one, and part and cosine of ``g_adv - g``.
    """
    params, x, y = trained()
    rows: dict[str, list[list[float]]] = {}
    for k in range(BATCHES):
        batch = x[BATCH * k : BATCH * (k + 1)], y[BATCH * k : BATCH * (k + 1)]
        there, change = second_gradient(in_float32, params, *batch)
        e = minus(there, params)

        def add(name: str, seen: Params, found: Any, e: Any = e, change: Any = change) -> None:
            row = [norm(seen) / RHO, along(seen, e), along(found, change), cosine(found, change)]
            rows.setdefault(name, []).append(row)

        there, found = second_gradient(in_bfloat16, params, *batch)
        add("float32, cast in the loss", minus(cast(there), cast(params)), found)
        there, found = second_gradient(float32_products, params, *batch)
        add("float32, products in float32", minus(there, params), found)
        half = cast(params)
        there, found = second_gradient(in_bfloat16, half, *batch)
        add("bfloat16", minus(there, half), found)
        # What the method cannot do for itself: e added in float32 and rounded by chance.
        exact = [a + b for a, b in zip(cast(half, jnp.float32), e, strict=True)]
        there, gradient = stochastically(exact, k), jax.jit(jax.grad(in_bfloat16))
        found = minus(gradient(there, *batch), gradient(half, *batch))
        add("bfloat16, rounded by chance", minus(there, half), found)
    return {name: [float(m) for m in np.mean(row, axis=0)] for name, row in rows.items()}


def test_a_small_perturbation_of_many_numbers() -> None:
    """Spread over a million parameters, each of which bfloat16 rounds."""
    rho = 0.05 / 10**0.5

    def rounded(dtype: Any, in_loss: Any) -> tuple[float, float, float]:
        """Measure the norm, the share along the gradient, and the part of coordinates that move."""
        keys = jax.random.split(jax.random.key(0))
        w, g = (jax.random.normal(key, (10**6,), jnp.float32) for key in keys)
        w, g = (0.03 * w).astype(dtype), g.astype(dtype)
        tx = sam(rho)
        there, _ = tx.update(g, tx.init(w), w, grad_fn=lambda perturbed: perturbed)
        seen = lambda w: w.astype(in_loss).astype(jnp.float32)
        e, g = seen(there) - seen(w), g.astype(jnp.float32)
        return norm(e), along(e, g) * norm(g) / rho, float(jnp.mean(e != 0))

    _, share, moved = rounded(jnp.bfloat16, jnp.bfloat16)
    assert share < 0.5
    assert moved < 0.5
    length, share, _ = rounded(jnp.float32, jnp.bfloat16)
    assert share == pytest.approx(1, abs=0.02)
    assert length > 2 * rho  # of rounding noise
    length, share, moved = rounded(jnp.float32, jnp.float32)
    assert (length, share) == pytest.approx((rho, 1), rel=0.01)
    assert moved > 0.99


def test_larger_radius_and_cast_by_layer() -> None:
    params, x, y = trained()
    batch = x[:BATCH], y[:BATCH]
    there, _ = second_gradient(in_float32, params, *batch, rho=10 * RHO)
    true, half = minus(there, params), cast(params)
    there, _ = second_gradient(in_bfloat16, half, *batch, rho=10 * RHO)
    assert along(minus(there, half), true) > 0.95

    by_layer = jax.jit(jax.grad(in_bfloat16))(params, *batch)
    at_once = jax.jit(jax.grad(lambda params, *batch: in_bfloat16(cast(params), *batch)))
    assert cosine(at_once(params, *batch), by_layer) > 1 - 1e-5


def test_table() -> None:
    rows = measure()
    text = (ROOT / "docs" / "recipes" / "low_precision.md").read_text()
    number = r" ([\d.]+) \|"
    for name, row in rows.items():
        (quoted,) = re.findall(rf"^\| {re.escape(name)} \|{number * 4}$", text, re.MULTILINE)
        np.testing.assert_allclose([float(cell) for cell in quoted], row, atol=0.1)

    exact, half = rows["float32, products in float32"], rows["bfloat16"]
    for name in ("float32, cast in the loss", "bfloat16, rounded by chance"):
        size, share, change, _ = rows[name]
        assert size > 1.5  # of rounding noise
        assert abs(share - 1) < 0.1  # which does not shorten the perturbation itself
        assert change > 0.8
    assert exact[3] > 0.95
    assert half[0] < 1
    assert half[1] < 0.75
    assert half[2] < rows["float32, cast in the loss"][2] - 0.1
