"""Wrappers that leave out a step where a gradient is not finite, around a method and behind it.

Around a method they know the first gradient only. Here it may be the second that goes wrong.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import xsam_jax
from tests.every_method.methods import LEARNING_RATE, METHODS
from tests.every_method.problem import assert_close, grad_fn, init

pytestmark = pytest.mark.usefixtures("standard_promotion")  # optax multiplies floats by a bool

Wrapper = Callable[[optax.GradientTransformation], optax.GradientTransformation]
Update = Callable[..., tuple[chex.ArrayTree, Any]]


def skipping(skip: Any) -> Wrapper:
    return lambda tx: optax.MultiSteps(tx, 1, should_skip_update_fn=skip).gradient_transformation()


# Around an optimizer they leave out a step of which they do not like the gradient.
GUARDS: dict[str, Wrapper] = {
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "skip_not_finite": skipping(optax.skip_not_finite),
    "skip_large_updates": skipping(
        functools.partial(optax.skip_large_updates, max_squared_norm=1e6)
    ),
}


# All methods end alike where a gradient is not finite: each has one guard, three have them all.
guarded = pytest.mark.parametrize(
    ("name", "guard"),
    [(name, "apply_if_finite") for name in METHODS]
    + [
        (name, guard)
        for name in ("sam", "xsam_oja", "wsam_decoupled")
        for guard in list(GUARDS)[1:]
    ],
)


def poisoned_update(tx: Any) -> Update:
    """Make an update ``(state, first, second)`` whose gradients have these factors on one leaf."""
    params = init()

    def poisoned(gradient: chex.ArrayTree, factor: chex.Numeric) -> chex.ArrayTree:
        return gradient | {"bias": gradient["bias"] * jnp.asarray(factor, jnp.float64)}

    @jax.jit
    def update(state: Any, first: chex.Numeric, second: chex.Numeric) -> Any:
        g = poisoned(grad_fn(0)(params), first)
        second_grad_fn = lambda at: poisoned(grad_fn(0)(at), second)
        return tx.update(g, state, params, grad_fn=second_grad_fn)

    return update


def finite(tree: chex.ArrayTree) -> bool:
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


def inner_state(guard_state: Any) -> Any:
    """Take the state of the transformation inside of a guard."""
    if isinstance(guard_state, optax.MultiStepsState):
        return guard_state.inner_opt_state
    return guard_state.inner_state


@guarded
def test_a_guard_around_lets_the_second_gradient_through(name: str, guard: str) -> None:
    """It leaves out a step of a bad first gradient; a bad second one stays for good."""
    tx = GUARDS[guard](METHODS[name].optimizer(optax.sgd(LEARNING_RATE, momentum=0.9)))
    update = poisoned_update(tx)
    _, good = update(tx.init(init()), 1.0, 1.0)
    updates, after = update(good, jnp.nan, 1.0)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, init()))
    assert finite(inner_state(after))
    updates, after = update(good, 1.0, jnp.inf)
    assert not finite(updates)
    if not METHODS[name].wraps_base:  # which keeps its base's state itself
        updates, _ = update(after, 1.0, 1.0)  # the momentum is NaN
        assert not finite(updates)


@guarded
def test_a_guard_behind_sees_both_gradients(name: str, guard: str) -> None:
    """It leaves out the base optimizer's step; the method keeps nothing of it but that it was."""
    method, wrapper = METHODS[name], GUARDS[guard]
    base = optax.sgd(LEARNING_RATE, momentum=0.9)
    tx = (
        optax.chain(method.optimizer(base), wrapper(optax.identity()))
        if method.wraps_base
        else optax.chain(method.transformation(), wrapper(base))
    )
    update = poisoned_update(tx)
    _, good = update(tx.init(init()), 1.0, 1.0)
    for factors in ((jnp.nan, 1.0), (1.0, jnp.nan), (1.0, jnp.inf), (jnp.inf, jnp.inf)):
        updates, (method_state, guard_state) = update(good, *factors)
        chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, init()))
        chex.assert_trees_all_equal(method_state, good[0]._replace(count=method_state.count))
        assert method_state.count == good[0].count + 1
        chex.assert_trees_all_equal(inner_state(guard_state), inner_state(good[1]))
    updates, _ = update((method_state, guard_state), 1.0, 1.0)
    assert finite(updates)


@pytest.mark.parametrize("name", ["sam", "xsam_oja"])
def test_zero_nans(name: str) -> None:
    """Before the method it hides a bad first gradient, behind it the step is the base's own."""
    base, method = optax.sgd(LEARNING_RATE, momentum=0.9), METHODS[name].transformation()
    before = optax.chain(optax.zero_nans(), method, base)
    update = poisoned_update(before)
    _, good = update(before.init(init()), 1.0, 1.0)
    assert finite(update(good, jnp.nan, 1.0)[0])
    assert not finite(update(good, 1.0, jnp.nan))

    behind = optax.chain(method, optax.zero_nans(), base)
    update = poisoned_update(behind)
    first, good = update(behind.init(init()), 1.0, 1.0)
    for factors in ((jnp.nan, 1.0), (1.0, jnp.inf)):
        updates, after = update(good, *factors)
        assert_close(updates, jax.tree.map(lambda u: 0.9 * u, first))  # momentum alone
        assert finite(after)


def test_a_loss_scale_that_overflows_in_the_second_gradient_alone() -> None:
    """It is halved by what the guard behind the method saw, and the next step is right."""
    loss = lambda w: 3 * w[0] ** 4
    optimizer = optax.chain(xsam_jax.sam(rho=0.05), optax.apply_if_finite(optax.sgd(1e-3), 5))

    def scaled_grad_fn(scale: chex.Array) -> Any:
        def scaled_loss(w: chex.Array) -> chex.Array:
            return (loss(w.astype(jnp.float16)) * scale.astype(jnp.float16)).astype(jnp.float32)

        return lambda w: jax.grad(scaled_loss)(w) / scale

    @jax.jit
    def step(w: chex.Array, state: Any, scale: chex.Array) -> Any:
        gradient = scaled_grad_fn(scale)
        updates, state = optimizer.update(gradient(w), state, w, grad_fn=gradient)
        finite = optax.tree.get(state, "last_finite")
        return optax.apply_updates(w, updates), state, jnp.where(finite, scale, scale / 2)

    w, scale = jnp.array([1.7], jnp.float32), jnp.float32(1024)
    assert jnp.isfinite(scaled_grad_fn(scale)(w))
    assert not jnp.isfinite(scaled_grad_fn(scale)(w + jnp.float32(0.05)))
    same, state, half = step(w, optimizer.init(w), scale)
    assert (same, half) == (w, 512)
    moved, _, still = step(same, state, half)
    assert still == 512
    assert_close(moved, w - 1e-3 * jax.grad(loss)(w + jnp.float32(0.05)), atol=1e-3)
