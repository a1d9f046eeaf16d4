"""Before and after other transformations: trajectories against formulas written out."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from tests.every_method.methods import LEARNING_RATE, METHODS, every_method
from tests.every_method.problem import (
    STEPS,
    Rule,
    assert_close,
    descend,
    init,
    stack,
    stepper,
    train,
    train_by_hand,
    undisturbed,
)

SGD = optax.sgd(LEARNING_RATE)


def add_decay(tree: chex.ArrayTree, params: chex.ArrayTree) -> chex.ArrayTree:
    return jax.tree.map(lambda leaf, w: leaf + 0.3 * w, tree, params)


def clip(tree: chex.ArrayTree, params: chex.ArrayTree) -> chex.ArrayTree:
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))
    assert norm > 0.1, "nothing to clip"
    return jax.tree.map(lambda leaf: leaf * 0.1 / norm, tree)


def decay_and_momentum(memory: Any, direction: Any, params: Any, k: int) -> tuple[Any, Any]:
    memory = jax.tree.map(lambda m, d: 0.9 * m + d, memory, add_decay(direction, params))
    return descend(memory, memory, params, k)


def clipped(memory: Any, direction: Any, params: Any, k: int) -> tuple[Any, Any]:
    return descend(memory, clip(direction, params), params, k)


def averaged_adamw(memory: Any, direction: Any, params: Any, k: int) -> tuple[Any, Any]:
    def average(decay: float, memory: Any, tree: Any) -> tuple[Any, Any]:
        memory = jax.tree.map(lambda m, x: decay * m + (1 - decay) * x, memory, tree)
        return memory, jax.tree.map(lambda m: m / (1 - decay ** (k + 1)), memory)

    ema, direction = average(0.8, memory[0], direction)
    first, m = average(0.9, memory[1], direction)
    second, s = average(0.999, memory[2], jax.tree.map(jnp.square, direction))
    adam = jax.tree.map(lambda m, s: m / (jnp.sqrt(s) + 1e-8), m, s)
    return descend((ema, first, second), add_decay(adam, params), params, k)


MUON = optax.contrib.muon(LEARNING_RATE)


@jax.jit
def muon(memory: Any, direction: Any, params: Any, k: int) -> tuple[Any, Any]:
    update, memory = MUON.update(direction, memory, params)
    return memory, update


AFTER: dict[str, tuple[optax.GradientTransformation, Rule]] = {
    "add_decayed_weights": (
        optax.chain(optax.add_decayed_weights(0.3), optax.sgd(LEARNING_RATE, momentum=0.9)),
        decay_and_momentum,
    ),
    "clip_by_global_norm": (optax.chain(optax.clip_by_global_norm(0.1), SGD), clipped),
    "ema": (
        optax.chain(optax.ema(0.8), optax.adamw(LEARNING_RATE, weight_decay=0.3)),
        averaged_adamw,
    ),
    "muon": (MUON, muon),
}


# optax raises floats to the power of int32 counts.
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    ("name", "after"),
    # All but one of the methods leave everything to what follows them.
    [*((name, "ema") for name in METHODS), *(("wsam_decoupled", after) for after in AFTER)],
)
def test_before(name: str, after: str) -> None:
    base, rule = AFTER[after]
    zeros = jax.tree.map(jnp.zeros_like, init())
    memory = {"ema": (zeros, zeros, zeros), "muon": base.init(zeros)}.get(after, zeros)
    trajectory, _ = train(METHODS[name].optimizer(base))
    assert_close(trajectory, train_by_hand(name, rule, memory))


@pytest.mark.parametrize("before", ["add_decayed_weights", "clip_by_global_norm"])
@every_method
def test_after(name: str, before: str) -> None:
    """The method is given the changed gradient, ``grad_fn`` remains the loss's own."""
    transformation, rule = {
        "add_decayed_weights": (optax.add_decayed_weights(0.3), add_decay),
        "clip_by_global_norm": (optax.clip_by_global_norm(0.1), clip),
    }[before]
    trajectory, _ = train(optax.chain(transformation, METHODS[name].optimizer()))
    assert_close(trajectory, train_by_hand(name, before=rule))
    if before == "add_decayed_weights":  # the perturbation has turned
        with pytest.raises(AssertionError):
            assert_close(trajectory, undisturbed(name)[0], atol=1e-4)


@pytest.mark.parametrize("name", ["sam", "asam", "eigen_sam", "xsam"])
def test_clipping_before_changes_nothing(name: str) -> None:
    """These see of the gradient its direction only."""
    assert_close(train_by_hand(name, before=clip), train_by_hand(name))


@pytest.mark.parametrize(
    "name", ["gsam", "wsam", "wsam_decoupled", "friendly_sam", "xsam_oja", "xsam_subspace"]
)
def test_clipping_before_misleads(name: str) -> None:
    """These see its size too, as that of the gradient beside ``grad_fn``'s."""
    alone = train_by_hand(name)
    with pytest.raises(AssertionError):
        assert_close(train_by_hand(name, before=clip), alone, atol=1e-4)


@pytest.mark.usefixtures("standard_promotion")  # optax divides float64 by int32
@every_method
def test_reduce_on_plateau_gets_the_value(name: str) -> None:
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
    trajectory, _ = train(METHODS[name].optimizer(optax.chain(SGD, plateau)), value=1.0)

    def rule(memory: Any, direction: Any, params: Any, k: int) -> tuple[Any, Any]:
        # The first value is the best so far; each one after it is no better.
        return descend(memory, jax.tree.map(lambda d: 0.5**k * d, direction), params, k)

    assert_close(trajectory, train_by_hand(name, rule))


@every_method
def test_schedule_free(name: str) -> None:
    """y, where gradients are taken, lies between z, which descends, and x, the mean of z."""
    tx = METHODS[name].optimizer()
    trajectory, _ = train(optax.contrib.schedule_free(tx, LEARNING_RATE, b1=0.8))
    x = z = y = init()
    state = tx.init(y)
    expected = []
    for k in range(STEPS):
        descended, state = stepper(name)(y, state, k)
        z = jax.tree.map(lambda z, new, old: z + new - old, z, descended, y)
        x = jax.tree.map(lambda x, z, k=k: x + (z - x) / (k + 1), x, z)
        y = jax.tree.map(lambda x, z: 0.8 * x + 0.2 * z, x, z)
        expected.append(y)
    assert_close(trajectory, stack(expected))
