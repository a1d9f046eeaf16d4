"""The second gradient in a branch of its own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import io_callback

import xsam_jax
from tests import quadratic
from tests.platforms import only_on_a_cpu

GradFn = Callable[[chex.Array], chex.Array]


def planned(step: Callable[[GradFn, chex.Array, Any], chex.ArrayTree], state: Any = None) -> int:
    """Ask the compiler how many bytes a step needs; the network's blocks are a scan."""
    blocks, inputs = jax.random.normal(jax.random.key(0), (12, 16, 16)) / 4, jnp.ones((512, 16))

    def loss(blocks: chex.Array) -> chex.Array:
        outputs, _ = jax.lax.scan(lambda x, block: (jnp.tanh(x @ block), None), inputs, blocks)
        return jnp.mean(outputs**2)

    program = jax.jit(partial(step, jax.grad(loss))).lower(blocks, state).compile()
    size: int = program.memory_analysis().temp_size_in_bytes
    return size


@only_on_a_cpu
def test_the_gradients_use_the_same_memory() -> None:
    """Side by side they need twice as much; a refresh of the eigenvector needs that in any case."""

    def of(tx: optax.GradientTransformationExtraArgs, refresh: bool | None = None) -> int:
        step = lambda gradient, w, state: tx.update(
            gradient(w), state, w, grad_fn=gradient, refresh=refresh
        )
        return planned(step, tx.init(jnp.zeros((12, 16, 16))))

    one = planned(lambda gradient, w, _: gradient(w))
    both = planned(lambda gradient, w, _: gradient(w + gradient(w)))
    assert both > 1.8 * one
    assert of(xsam_jax.sam()) < 1.1 * one
    assert of(xsam_jax.xsam()) < 1.3 * both
    assert of(xsam_jax.xsam(), True) == of(xsam_jax.xsam())
    assert of(xsam_jax.xsam(), False) < 1.1 * one


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_the_condition_is_constant_where_a_branch_would_wait_for_it(platform: str) -> None:
    tx, params = xsam_jax.sam(), quadratic.start(3)
    gradient = quadratic.grad_fn(jnp.eye(3))
    step = jax.jit(lambda w: tx.update(gradient(w), tx.init(w), w, grad_fn=gradient)[0])
    program = step.trace(params).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.constant dense<true>" in program) == (platform != "cpu")


def test_the_compiler_drops_a_branch_whose_condition_is_constant() -> None:
    def step(w: chex.Array) -> chex.Array:
        finite = jnp.isfinite(jnp.sum(w))
        taken = jax.lax.platform_dependent(finite, tpu=lambda x: x, default=jnp.ones_like)
        return jax.lax.cond(taken, jnp.sin, jnp.cos, w)

    program = jax.jit(step).lower(jnp.ones(3)).compile().as_text()
    assert "conditional" not in program
    assert "cosine" not in program


def test_a_gradient_of_other_dtypes() -> None:
    """What the branch gives that is not taken has its types."""
    params, gradient = quadratic.start(3), quadratic.grad_fn(jnp.eye(3))
    single = lambda w: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradient(w))
    tx = xsam_jax.sam()

    @jax.jit
    def update(scale: chex.Numeric) -> chex.ArrayTree:
        grads = jax.tree.map(lambda leaf: scale * leaf, gradient(params))
        return tx.update(grads, tx.init(params), params, grad_fn=single)[0]

    expected = single(jax.tree.map(lambda w: w + 0.05 * w / optax.tree.norm(params), params))
    chex.assert_trees_all_close(update(1.0), expected, rtol=1e-6)
    assert np.isnan(quadratic.flat(update(jnp.nan))).all()


@pytest.mark.parametrize("ordered", [True, False])
def test_callbacks_under_vmap(ordered: bool) -> None:
    """`jax.vmap` refuses them in a branch."""
    tx, calls = xsam_jax.sam(), []

    def gradient(w: chex.Array) -> chex.Array:
        io_callback(lambda: calls.append(0), None, ordered=ordered)
        return jnp.sin(w)

    def step(w: chex.Array) -> chex.Array:
        return tx.update(jnp.sin(w), tx.init(w), w, grad_fn=gradient)[0]

    params = jnp.arange(1.0, 7.0).reshape(2, 3)
    one_by_one = jnp.stack([step(w) for w in params])
    calls.clear()
    chex.assert_trees_all_close(jax.jit(jax.vmap(step))(params), one_by_one, rtol=1e-12)
    jax.effects_barrier()
    assert len(calls) == 1


def not_pure(w: chex.Array) -> chex.Array:
    return float(jnp.sum(w)) * w


@pytest.mark.parametrize("ahead_of_time", [True, False])
def test_a_gradient_that_cannot_be_traced(ahead_of_time: bool) -> None:
    tx, w = xsam_jax.sam(), jnp.ones(3)
    gradient = jax.jit(jnp.sin).lower(w).compile() if ahead_of_time else not_pure
    with pytest.raises(TypeError) as caught:
        tx.update(gradient(w), tx.init(w), w, grad_fn=gradient)
    assert any("grad_fn is traced, also outside of jax.jit" in n for n in caught.value.__notes__)


def test_outside_of_jit_nothing_is_compiled_anew() -> None:
    tx, params, gradient = xsam_jax.sam(), quadratic.start(3), quadratic.grad_fn(jnp.eye(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "cond", lambda *args: pytest.fail("a branch"))
        tx.update(gradient(params), tx.init(params), params, grad_fn=gradient)
