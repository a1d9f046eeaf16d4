"""Gradients and Hessian products that go wrong in any one step, and the degenerate problems."""

import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import xsam_jax
from tests.every_method.methods import METHODS, every_method
from tests.every_method.problem import STEPS, at, batch, grad_fn, init, loss

PLACES = 3  # updates, the result of grad_fn, that of curvature_grad_fn
# 1e153 is finite, and its square; the square of the product that Oja's rule makes of it is not.
FACTORS = (jnp.nan, jnp.inf, -jnp.inf, 1e153, 1e300)
CASES = list(itertools.product(range(STEPS), range(PLACES), FACTORS))


def poisoned(gradient: chex.ArrayTree, factor: chex.Numeric) -> chex.ArrayTree:
    return gradient | {"bias": gradient["bias"] * factor}


@every_method
def test_one_step_goes_wrong(name: str) -> None:
    """Whatever it is and in whatever step, the state stays finite and training goes on."""
    tx = METHODS[name].optimizer(optax.sgd(0.1, momentum=0.9))

    def run(bad_step: chex.Array, place: chex.Array, factor: chex.Array) -> Any:
        def step(carry: Any, k: chex.Array) -> tuple[Any, Any]:
            params, state = carry
            factors = jnp.where((k == bad_step) & (jnp.arange(PLACES) == place), factor, 1.0)
            updates, new_state = tx.update(
                poisoned(grad_fn(k)(params), factors[0]),
                state,
                params,
                grad_fn=lambda at: poisoned(grad_fn(k)(at), factors[1]),
                curvature_grad_fn=lambda at: poisoned(grad_fn(k)(at), factors[2]),
            )
            good = jnp.all(jnp.isfinite(jnp.concatenate([jnp.ravel(u) for u in updates.values()])))
            # What experiments.train and `optax.apply_if_finite` do.
            kept = lambda new, old: jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
            params = kept(optax.apply_updates(params, updates), params)
            method_state = new_state if METHODS[name].wraps_base else new_state[0]
            return (params, kept(new_state, state)), (good, method_state)

        return jax.lax.scan(step, (init(), tx.init(init())), jnp.arange(STEPS))

    cases = [jnp.asarray(column) for column in zip(*CASES, strict=True)]
    (params, _), (good, states) = jax.jit(jax.vmap(run))(*cases)
    chex.assert_tree_all_finite((params, states))
    for i, (bad_step, place, factor) in enumerate(CASES):
        after = [k for k in range(STEPS) if not good[i, k]]
        # A product alone is no reason to leave out a step: the last good eigenvector is kept.
        expected = [bad_step] if place < 2 and abs(factor) != 1e153 else []
        assert after == expected or (abs(factor) == 1e153 and after == [bad_step]), CASES[i]


@pytest.mark.parametrize("name", [name for name in METHODS if "subspace" not in name])
def test_a_step_without_a_gradient_has_a_derivative(name: str) -> None:
    """With `subspace` it has none, and its docstring says so."""
    tx = METHODS[name].optimizer()
    weights = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([2.0])}
    gradient = lambda w: jax.tree.map(jnp.multiply, weights, w)

    def after(w: chex.ArrayTree) -> chex.Array:
        updates, _ = tx.update(gradient(w), tx.init(w), w, grad_fn=gradient)
        return sum(jnp.sum(leaf) for leaf in optax.apply_updates(w, updates).values())

    derivative = jax.grad(after)(jax.tree.map(jnp.zeros_like, weights))
    chex.assert_tree_all_finite(derivative)


@every_method
def test_degenerate_quadratics(name: str) -> None:
    """No curvature at all, one eigenvalue for all directions, a flat direction, a zero radius."""
    w = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}
    zero, one, rank_one = jnp.zeros(3), jnp.ones(3), jnp.array([2.0, 0.0, 0.0])

    def run(spectrum: chex.Array, rho: chex.Array) -> Any:
        tx = METHODS[name].optimizer(rho=rho)
        gradient = lambda w: {"a": spectrum[:2] * w["a"], "b": spectrum[2:] * w["b"]}

        def step(carry: Any, _: None) -> tuple[Any, Any]:
            params, state = carry
            updates, state = tx.update(gradient(params), state, params, grad_fn=gradient)
            return (optax.apply_updates(params, updates), state), updates

        return jax.lax.scan(step, (w, tx.init(w)), length=3)

    spectra, radii = jnp.stack([zero, one, rank_one, one, zero]), jnp.array([0.3, 0.3, 0.3, 0, 0])
    (params, state), updates = jax.jit(jax.vmap(run))(spectra, radii)
    chex.assert_tree_all_finite((params, state))
    for i in (0, 4):
        chex.assert_trees_all_equal(at(i, params), w)
    norm = lambda i: optax.tree.norm(at(i, params))
    assert norm(1) < optax.tree.norm(w)
    assert norm(3) < optax.tree.norm(w)
    # The flat directions are left alone, to the rounding of the eigenvector.
    chex.assert_trees_all_close(at(2, params)["b"], w["b"], rtol=0, atol=1e-9)
    assert jnp.any(updates["a"][2] != 0)


@every_method
def test_one_class_one_parameter_one_example(name: str) -> None:
    """A softmax over one class is constant: nothing moves and nothing is poisoned."""
    tx, w, x = METHODS[name].optimizer(), jnp.ones((1, 1)), jnp.full((1, 1), 2.0)

    def one_class(w: chex.Array) -> chex.Array:
        return -jnp.mean(jax.nn.log_softmax(x @ w)[:, 0])

    @jax.jit
    def two_steps() -> Any:
        gradient, state, updates = jax.grad(one_class), tx.init(w), []
        for _ in range(2):
            update, state = tx.update(gradient(w), state, w, grad_fn=gradient)
            updates.append(update)
        return updates, state

    updates, state = two_steps()
    assert all(update == 0 for update in updates)
    chex.assert_tree_all_finite(state)


@every_method
def test_all_parameters_masked(name: str) -> None:
    """Nothing is left for the method: the gradient passes."""
    method = METHODS[name]
    tx = optax.masked(method.transformation(optax.identity()), {"kernel": False, "bias": False})
    params, gradient = init(), grad_fn(0)

    @jax.jit
    def update() -> Any:
        partial = xsam_jax.masked_grad_fn(gradient, params)
        g = gradient(params)
        return g, *tx.update(g, tx.init(params), params, grad_fn=partial)

    g, updates, state = update()
    chex.assert_trees_all_equal(updates, g)
    chex.assert_tree_all_finite(state)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@every_method
def test_loss_scaling(name: str, dtype: str) -> None:
    """Float32 parameters, half-precision arithmetic, both gradients unscaled."""
    tx, params = METHODS[name].optimizer(), init(jnp.float32)
    state = tx.init(params)

    tiny = 2.0**-24  # the loss in these units has gradients below float16's range

    def scaled_grad_fn(scale: chex.Numeric) -> Any:
        def scaled_loss(params: chex.ArrayTree) -> chex.Array:
            half = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
            return scale * tiny * loss(half, batch(0)).astype(jnp.float32)

        return lambda params: jax.tree.map(lambda g: g / scale, jax.grad(scaled_loss)(params))

    @jax.jit
    def update(scale: chex.Numeric) -> Any:
        gradient = scaled_grad_fn(scale)
        return tx.update(gradient(params), state, params, grad_fn=gradient)

    @jax.jit
    def update_in_float32() -> Any:
        gradient = jax.grad(lambda params: tiny * loss(params, batch(0)))
        return tx.update(gradient(params), state, params, grad_fn=gradient)

    expected, _ = update_in_float32()

    def error(updates: chex.ArrayTree) -> chex.Array:
        difference = optax.tree.norm(jax.tree.map(jnp.subtract, updates, expected))
        return difference / optax.tree.norm(expected)

    assert error(update(jnp.float32(2**20))[0]) < 0.05
    assert (error(update(jnp.float32(1))[0]) > 0.1) == (dtype == "float16")
    # A scale that overflows: the step says so and keeps its state.
    updates, after = update(jnp.float32(jnp.inf))
    assert not jnp.isfinite(updates["bias"]).any()
    chex.assert_tree_all_finite(after)
