"""Flax's tutorials, small and on digits, with the lines that SAM changes: its formula.

With a radius of zero each is the tutorial as it is: its losses, weights, statistics and counters.
"""

import functools
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_digits

from tests.documents.blocks import as_users_do
from tests.documents.text import ROOT


@pytest.fixture(autouse=True)
def _as_users_do() -> Iterator[None]:
    with as_users_do():
        yield


def batches(count: int = 3, size: int = 16) -> list[dict[str, Any]]:
    images, labels = load_digits(return_X_y=True)
    images = jnp.asarray(images / 16).reshape(-1, 8, 8, 1)
    parts = [slice(size * i, size * i + size) for i in range(count)]
    return [{"image": images[part], "label": jnp.asarray(labels[part])} for part in parts]


NNX = """
from functools import partial
import jax, jax.numpy as jnp, optax
from flax import nnx

class CNN(nnx.Module):
    def __init__(self, *, rngs):
        self.conv1 = nnx.Conv(1, 4, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm1 = nnx.BatchNorm(4, rngs=rngs)
        self.dropout1 = nnx.Dropout(rate=0.25)
        self.avg_pool = partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))
        self.linear1 = nnx.Linear(64, 16, rngs=rngs)
        self.dropout2 = nnx.Dropout(rate=0.25)
        self.linear2 = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x, rngs=None):
        x = self.avg_pool(nnx.relu(self.batch_norm1(self.dropout1(self.conv1(x), rngs=rngs))))
        x = x.reshape(x.shape[0], -1)
        x = nnx.relu(self.dropout2(self.linear1(x), rngs=rngs))
        return self.linear2(x)

model = CNN(rngs=nnx.Rngs(0))
in_float64(model)
optimizer = nnx.Optimizer(model, optax.adamw(0.005, 0.9), wrt=nnx.Param)
metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))
rngs = nnx.Rngs(1)

def loss_fn(model, rngs, batch):
    logits = model(batch["image"], rngs)
    loss = optax.softmax_cross_entropy_with_integer_labels(
        logits=logits, labels=batch["label"]
    ).mean()
    return loss, logits

@nnx.jit
def train_step(model, optimizer, metrics, rngs, batch):
    grad_fn = nnx.value_and_grad(loss_fn, has_aux=True)
    (loss, logits), grads = grad_fn(model, rngs, batch)
    metrics.update(loss=loss, logits=logits, labels=batch["label"])
    optimizer.update(model, grads)
"""
NNX_CHANGES = {
    "import nnx\n": "import nnx\nfrom xsam_jax import nnx_value_and_grad, sam\n",
    "optax.adamw(0.005, 0.9)": "optax.chain(sam(RHO), optax.adamw(0.005, 0.9))",
    "nnx.value_and_grad(": "nnx_value_and_grad(",
    "(loss, logits), grads = ": "(loss, logits), grads, grad_fn = ",
    "optimizer.update(model, grads)": "optimizer.update(model, grads, grad_fn=grad_fn)",
}
LINEN = """
from typing import Any
import jax, jax.numpy as jnp, optax
import flax.linen as nn
from flax.training import train_state

class CNN(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(features=4, kernel_size=(3, 3), param_dtype=jnp.float64)(x)
        x = nn.BatchNorm(use_running_average=not train, param_dtype=jnp.float64)(x)
        x = nn.avg_pool(nn.relu(x), window_shape=(2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(features=16, param_dtype=jnp.float64)(x))
        x = nn.Dropout(rate=0.25, deterministic=not train)(x)
        return nn.Dense(features=10, param_dtype=jnp.float64)(x)

class TrainState(train_state.TrainState):
    batch_stats: Any

def create_train_state(module, rng, learning_rate, momentum):
    variables = module.init(rng, jnp.ones([1, 8, 8, 1]), train=False)
    return TrainState.create(
        apply_fn=module.apply,
        params=variables["params"],
        tx=optax.sgd(learning_rate, momentum),
        batch_stats=variables["batch_stats"],
    )

@jax.jit
def train_step(state, batch, dropout_key):
    dropout_train_key = jax.random.fold_in(key=dropout_key, data=state.step)

    def loss_fn(params):
        logits, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            x=batch["image"],
            train=True,
            rngs={"dropout": dropout_train_key},
            mutable=["batch_stats"],
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(
            logits=logits, labels=batch["label"]
        ).mean()
        return loss, (logits, updates)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, updates)), grads = grad_fn(state.params)
    state = state.apply_gradients(grads=grads)
    state = state.replace(batch_stats=updates["batch_stats"])
    return state, {"loss": loss}

state = create_train_state(CNN(), jax.random.key(0), 0.01, 0.9)
"""
LINEN_CHANGES = {
    "import train_state\n": "import train_state\nfrom xsam_jax import sam\n",
    "optax.sgd(learning_rate, momentum)": (
        "optax.chain(sam(RHO), optax.sgd(learning_rate, momentum))"
    ),
    "apply_gradients(grads=grads)": (
        "apply_gradients(grads=grads, grad_fn=lambda params: grad_fn(params)[1])"
    ),
}


def in_float64(model: Any) -> None:
    """Makes the parameters and statistics of a model float64, its counters left as they are."""
    widen = lambda leaf: (
        leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
    )
    nnx.update(model, jax.tree.map(widen, nnx.state(model)))


def changed(script: str, changes: dict[str, str]) -> str:
    for line, ours in changes.items():
        assert script.count(line) == 1
        script = script.replace(line, ours)
    return script


def executed(script: str, **names: Any) -> dict[str, Any]:
    namespace = {"in_float64": in_float64, **names}
    exec(script, namespace)
    return namespace


def train_state_of_the_recipe() -> str:
    """The methods that docs/recipes/flax.md adds to a Linen `TrainState`."""
    text = (ROOT / "docs" / "recipes" / "flax.md").read_text()
    return text.split("    batch_stats: Any\n")[1].split("\nclass Net")[0]


def nnx_run(names: dict[str, Any]) -> list[Any]:
    """All that there is after each step."""
    steps = []
    for batch in batches():
        nodes = [names[name] for name in ("model", "optimizer", "metrics", "rngs")]
        names["train_step"](*nodes, batch)
        kept = [nnx.as_pure(nnx.state(node, nnx.Not(nnx.RngKey))) for node in nodes]
        steps.append([*kept[:1], *kept[2:], float(names["metrics"].compute()["loss"])])
    return steps


def linen_run(names: dict[str, Any]) -> list[Any]:
    state, steps = names["state"], []
    for batch in batches():
        state, metrics = names["train_step"](state, batch, jax.random.key(1))
        steps.append((state.step, state.params, state.batch_stats, metrics))
    return steps


def sam_step(gradient: Any, params: Any, rho: float) -> Any:
    """SAM's gradient: that at ``w + rho * g / ||g||``."""
    grads = gradient(params)
    scale = rho / optax.tree.norm(grads)
    return gradient(jax.tree.map(lambda w, g: w + scale * g, params, grads))


def test_nnx_without_a_radius() -> None:
    plain = nnx_run(executed(NNX))
    ours = nnx_run(executed(changed(NNX, NNX_CHANGES), RHO=0.0))
    chex.assert_trees_all_close(ours, plain, rtol=1e-12, atol=1e-13)


def test_nnx_by_the_formula() -> None:
    found = nnx_run(executed(changed(NNX, NNX_CHANGES), RHO=0.1))
    names = executed(NNX)
    model, rngs, base = names["model"], names["rngs"], optax.adamw(0.005, 0.9)
    state = base.init(nnx.as_pure(nnx.state((model, rngs), nnx.Param)))

    @jax.jit
    def step(params: Any, rest: Any, state: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            net, own = nnx.merge(graphdef, params, rest, copy=True)
            value, _ = names["loss_fn"](net, own, batch)
            return value, nnx.state((net, own), nnx.Not(nnx.Param))

        gradient = jax.grad(lambda params: loss(params)[0])
        updates, state = base.update(sam_step(gradient, params, 0.1), state, params)
        return optax.apply_updates(params, updates), loss(params)[1], state

    for batch, (expected, *_) in zip(batches(), found, strict=True):
        graphdef, params, rest = nnx.split((model, rngs), nnx.Param, ...)
        params, rest, state = step(nnx.as_pure(params), rest, state, batch)
        nnx.update((model, rngs), params, rest)
        ours = nnx.as_pure(nnx.state(model))
        chex.assert_trees_all_close(ours, expected, rtol=1e-9, atol=1e-12)
    assert rngs.default.count[...] == 2 * len(found)  # two layers of dropout


def linen_with(rho: float) -> dict[str, Any]:
    changes = {
        **LINEN_CHANGES,
        "    batch_stats: Any\n": f"    batch_stats: Any\n{train_state_of_the_recipe()}",
    }
    return executed(changed(LINEN, changes), RHO=rho)


def test_linen_without_a_radius() -> None:
    chex.assert_trees_all_close(
        linen_run(linen_with(0.0)), linen_run(executed(LINEN)), rtol=1e-12, atol=1e-13
    )


def test_linen_by_the_formula() -> None:
    found = linen_run(linen_with(0.1))
    state = executed(LINEN)["state"]

    @functools.partial(jax.jit, static_argnums=0)
    def step(k: int, state: Any, batch: Any) -> Any:
        rngs = {"dropout": jax.random.fold_in(jax.random.key(1), k)}

        def loss(params: Any) -> Any:
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, new = state.apply_fn(
                variables, batch["image"], True, rngs=rngs, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
            return losses.mean(), new["batch_stats"]

        gradient = jax.grad(lambda params: loss(params)[0])
        value, statistics = loss(state.params)
        adversarial = sam_step(gradient, state.params, 0.1)
        return state.apply_gradients(grads=adversarial, batch_stats=statistics), value

    for k, (batch, expected) in enumerate(zip(batches(), found, strict=True)):
        state, value = step(k, state, batch)
        ours = (state.step, state.params, state.batch_stats, {"loss": value})
        chex.assert_trees_all_close(ours, expected, rtol=1e-9, atol=1e-12)
