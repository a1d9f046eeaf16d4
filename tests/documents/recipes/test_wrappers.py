"""Accumulation is the large batch, and LoRA's step is the one that is written out."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.documents.blocks import recipe, run
from tests.documents.recipes.by_hand import XSAM, descend, sam_gradient
from xsam_jax import sam


def in_float64(model: Any) -> Any:
    """Flax's parameters are float32 by themselves."""
    graphdef, state = nnx.split(model)
    wide = lambda leaf: leaf.astype(float) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
    return nnx.merge(graphdef, jax.tree.map(wide, state))


def test_accumulated_gradients_are_those_of_the_large_batch() -> None:
    data = {"jnp.ones((4, 8, 3)), jnp.ones((4, 8))": "data"}
    x = jax.random.normal(jax.random.key(0), (4, 8, 3))
    y = jax.random.normal(jax.random.key(1), (4, 8))
    names = run(recipe("wrappers", "Accumulation"), data, data=(x, y))
    whole = jax.grad(lambda w: names["loss_fn"](w, x.reshape(32, 3), y.reshape(32)))
    expected = -0.1 * sam_gradient(whole, jnp.zeros(3), 0.05)
    np.testing.assert_allclose(names["updates"], expected, rtol=1e-12)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_lora(rho: float) -> None:
    """Perturbed by its own gradient, beside a head that is not; the average is one of all steps."""
    block = recipe("wrappers", "LoRA, with accumulation, clipping, warm-up and an average")
    changes = {
        "xsam(eigenvector=oja(), normalize=False)": "method",
        "Net(nnx.Rngs(0))": "in_float64(Net(nnx.Rngs(0)))",
    }
    names = run(block, changes, method=sam(rho), in_float64=in_float64)
    graphdef, start, frozen = nnx.split(
        in_float64(names["Net"](nnx.Rngs(0))), names["trained"], ...
    )
    x, y = names["x"].reshape(32, 4), names["y"].reshape(32)

    def loss(params: Any) -> Any:
        logits = nnx.merge(graphdef, nnx.State(params), frozen)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    gradient = jax.grad(loss)
    w = nnx.to_pure_dict(start)
    base = names["base"]
    states = {part: base.init(w[part]) for part in w}
    trajectory = []
    for _ in range(3):
        of_lora = lambda body, head: gradient({"body": body, "head": head})["body"]
        direction = sam_gradient(of_lora, w["body"], rho, w["head"])
        grads = {"body": direction, "head": gradient(w)["head"]}
        w = dict(w)
        for part, g in grads.items():
            w[part], states[part] = descend(base, g, states[part], w[part])
        trajectory.append(w)

    # Optax's schedule is float32: a thousandth, rounded.
    chex.assert_trees_all_close(nnx.to_pure_dict(names["params"]), w, rtol=0, atol=1e-8)
    weights = 0.01 * 0.99 ** np.arange(2, -1, -1) / (1 - 0.99**3)
    average = jax.tree.map(lambda *steps: np.tensordot(weights, np.stack(steps), 1), *trajectory)
    chex.assert_trees_all_close(nnx.to_pure_dict(names["average"]), average, rtol=0, atol=1e-8)
    moved = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), w, nnx.to_pure_dict(start))
    assert min(jax.tree.leaves(moved)) > 1e-4


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_accumulation_with_batchnorm(rho: float) -> None:
    """The gradient is the micro-batches' mean, each by itself; each moves the statistics on."""
    block = recipe("wrappers", "Accumulation with BatchNorm")
    changes = {
        XSAM: "method",
        "for _ in range(3):": "for _ in range(0):",
        "model = nnx.Sequential(": "model = make(",
    }
    make = lambda *layers: in_float64(nnx.Sequential(*layers))
    names = run(block, changes, method=sam(rho), make=make)
    model, x, y = names["model"], names["x"], names["y"]
    first, norm, _, last = model.layers
    names_of = [(first, "kernel"), (first, "bias"), (norm, "scale"), (norm, "bias")]
    names_of += [(last, "kernel"), (last, "bias")]
    read = lambda: [jnp.array(getattr(layer, name)[...]) for layer, name in names_of]

    def loss(w: list[jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
        h = x @ w[0] + w[1]
        h = (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5)
        logits = jax.nn.relu(h * w[2] + w[3]) @ w[4] + w[5]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def gradient(w: list[jax.Array]) -> list[jax.Array]:
        each = [jax.grad(loss)(w, *micro_batch) for micro_batch in zip(x, y, strict=True)]
        return jax.tree.map(lambda *grads: sum(grads) / len(grads), *each)

    w, mean, variance = read(), jnp.zeros(8), jnp.ones(8)
    for _ in range(3):
        h = x @ w[0] + w[1]
        for k in range(4):
            mean, variance = 0.99 * mean + 0.01 * h[k].mean(0), 0.99 * variance + 0.01 * h[k].var(0)
        expected = np.mean([loss(w, x[k], y[k]) for k in range(4)])
        w = [p - 0.1 * g for p, g in zip(w, sam_gradient(gradient, w, rho), strict=True)]
        np.testing.assert_allclose(names["step"](model, names["optimizer"], x, y), expected)
        chex.assert_trees_all_close(read(), w, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(norm.var[...], variance, rtol=1e-8)
