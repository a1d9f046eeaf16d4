"""The recipe for Flax NNX against a step that is written out: same masks, clean statistics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.documents.text import ROOT

pytestmark = pytest.mark.usefixtures("float32_as_users_do")


def recipe() -> dict[str, Any]:
    """Run the block of the recipes without its loop, and return what it defines."""
    text = (ROOT / "docs" / "recipes" / "flax.md").read_text().split("**NNX.**")[1]
    block = text.split("```python\n")[1].split("```")[0]
    namespace: dict[str, Any] = {}
    exec(block.split("\nx, y = ")[0].replace("nnx.Dropout(0.1", "nnx.Dropout(0.5"), namespace)
    return namespace


def mask_of_this_step(model: Any, rngs: Any) -> Any:
    return model.drop(jnp.ones((32, 8)), rngs=nnx.clone(rngs))


def test_step_of_the_recipe_by_hand() -> None:
    names = recipe()
    model, optimizer, method = names["model"], names["optimizer"], names["method"]
    rngs = names["rngs"]
    key = jax.random.key(0)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    state = method.init(params)
    mean, variance = jnp.zeros(8), jnp.ones(8)
    masks = []
    for k in range(3):
        x = jax.random.normal(jax.random.fold_in(key, k), (32, 4))
        y = (jnp.arange(32) + k) % 3
        mask = mask_of_this_step(model, rngs)
        masks.append(mask)

        def hidden(params: Any, x: jax.Array = x) -> jax.Array:
            return x @ params["hidden"]["kernel"] + params["hidden"]["bias"]

        def loss(params: Any, y: jax.Array = y, mask: jax.Array = mask) -> jax.Array:
            h = hidden(params)
            h = (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5)
            h = jax.nn.relu(h * params["norm"]["scale"] + params["norm"]["bias"]) * mask
            logits = h @ params["out"]["kernel"] + params["out"]["bias"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        expected, grads = jax.value_and_grad(loss)(params)
        h = hidden(params)
        mean, variance = 0.99 * mean + 0.01 * h.mean(0), 0.99 * variance + 0.01 * h.var(0)
        updates, state = method.update(grads, state, params, grad_fn=jax.grad(loss))
        params = optax.apply_updates(params, updates)

        found = names["step"](model, optimizer, rngs, x, y)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        np.testing.assert_allclose(model.norm.mean[...], mean, atol=1e-5)
        np.testing.assert_allclose(model.norm.var[...], variance, atol=1e-5)
        assert rngs.default.count[...] == k + 1
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
            nnx.to_pure_dict(nnx.state(model, nnx.Param)),
            params,
        )
    assert not np.array_equal(masks[0], masks[1])


@pytest.mark.parametrize("copy_first", [False, True])
def test_split_shares_its_counters_with_the_model(copy_first: bool) -> None:
    """With `nnx.value_and_grad` on the model itself only a clone made before it has its mask."""
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs))
    x = jax.random.normal(jax.random.key(0), (32, 4))
    loss = lambda net: jnp.mean(net(x) ** 2)

    @nnx.jit
    def gradients(model: Any) -> Any:
        source = nnx.clone(model) if copy_first else model
        graphdef, params, rest = nnx.split(source, nnx.Param, ...)
        _, first = nnx.value_and_grad(loss)(model)
        second = jax.grad(lambda p: loss(nnx.merge(graphdef, p, rest, copy=True)))(params)
        return nnx.to_pure_dict(first), nnx.to_pure_dict(second)

    first, second = gradients(model)
    apart = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), first, second)
    assert (max(jax.tree.leaves(apart)) < 1e-6) == copy_first
