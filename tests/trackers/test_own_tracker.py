"""A tracker of one's own, written with public names alone."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import xsam_jax
from tests import quadratic
from xsam_jax import Ascent, Descent, Eigenpair, Tracker

MATRIX, _ = quadratic.hessian([4.0, 3.0, 2.0, 1.0])
GRADIENT = quadratic.grad_fn(MATRIX)


def trajectory(tracker: Tracker, method: Any = xsam_jax.xsam, compiled: bool = True) -> Any:
    """Take ten steps; return parameters and states."""
    tx = optax.chain(method(eigenvector=tracker), optax.sgd(0.1))

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = tx.update(GRADIENT(params), state, params, grad_fn=GRADIENT)
        return (optax.apply_updates(params, updates), state), (params, state)

    params = quadratic.start(4)
    carry = params, tx.init(params)
    if compiled:
        return jax.jit(lambda carry: jax.lax.scan(step, carry, length=10)[1])(carry)
    found = []
    for _ in range(10):
        carry, of_step = step(carry, None)
        found.append(of_step)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def one_product(step: Ascent, pair: Eigenpair, count: chex.Array) -> Eigenpair:
    """Power iteration with one product a refresh, which starts from the gradient."""
    v = optax.tree.where(count == 0, step.grads, pair.vector)
    v = optax.tree.scale(1 / optax.tree.norm(v), v)
    product = step.hvp(step.params, v)
    vector = optax.tree.scale(1 / optax.tree.norm(product), product)
    value = optax.tree.vdot(v, product).astype(jnp.float32)
    return pair._replace(vector=vector, value=value)


@pytest.mark.parametrize("method", [xsam_jax.xsam, xsam_jax.eigen_sam])
def test_power_iteration_written_anew(method: Any) -> None:
    """From the gradient on, as the library's with that start."""
    start = GRADIENT(quadratic.start(4))
    library = xsam_jax.power_iteration(every=3, iters=1, start=start)
    found = trajectory(xsam_jax.periodic(3, one_product), method)
    chex.assert_trees_all_close(found, trajectory(library, method), rtol=1e-12)


def oja(rate: float, with_projection: bool = False) -> Tracker:
    """A tracker with `xsam_jax.oja`'s vector and no eigenvalue."""

    def after(step: Descent, pair: Eigenpair) -> tuple[Eigenpair, Any]:
        (scale, tree), product = xsam_jax.free_product(step)
        h = optax.tree.scale(1 / optax.tree.norm(product), product)
        along = scale * optax.tree.vdot(tree, pair.vector)
        weight = jnp.where(optax.tree.norm(pair.vector) == 0, 1, rate * along)
        v = optax.tree.add_scale(pair.vector, weight, h)
        v = optax.tree.scale(1 / optax.tree.norm(v), v)
        projection = lambda: optax.tree.vdot(step.grads_adv, v)
        return pair._replace(vector=v), projection if with_projection else None

    return Tracker(after=after, free=True, name=f"oja(rate={rate})")


@pytest.mark.parametrize("with_projection", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_oja_written_anew(compiled: bool, with_projection: bool) -> None:
    params, (own, _) = trajectory(oja(0.3, with_projection), compiled=compiled)
    expected_params, (expected, _) = trajectory(xsam_jax.oja(0.3))
    chex.assert_trees_all_close(params, expected_params, rtol=1e-12)
    chex.assert_trees_all_close(own.eigenvector, expected.eigenvector, rtol=1e-12)
    np.testing.assert_allclose(own.alignment, expected.alignment, rtol=1e-6)


def test_a_pair_that_is_not_finite_is_dropped() -> None:
    """Without a projection, too: the direction is corrected along the vector before."""

    def after(step: Descent, pair: Eigenpair) -> tuple[Eigenpair, None]:
        del step
        nothing = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), pair.vector)
        return pair._replace(vector=nothing, value=jnp.float32(jnp.nan)), None

    params, vector = quadratic.start(4), GRADIENT(quadratic.start(4, seed=1))
    vector = optax.tree.scale(1 / optax.tree.norm(vector), vector)

    def step(tracker: Tracker) -> Any:
        tx = xsam_jax.xsam(eigenvector=tracker)
        state = tx.init(params)._replace(eigenvector=vector)
        return tx.update(GRADIENT(params), state, params, grad_fn=GRADIENT)

    direction, state = step(Tracker(after=after))
    expected, kept = step(Tracker())
    chex.assert_trees_all_close(direction, expected, rtol=1e-12)
    chex.assert_trees_all_close(state.eigenvector, kept.eigenvector)
    assert state.eigenvalue == kept.eigenvalue


def test_memory_goes_from_step_to_step() -> None:
    """The number of steps, and of both calls."""

    def before(step: Ascent, pair: Eigenpair, count: chex.Array) -> Eigenpair:
        del step
        return pair._replace(memory=pair.memory | {"before": count})

    def after(step: Descent, pair: Eigenpair) -> tuple[Eigenpair, None]:
        del step
        return pair._replace(memory=pair.memory | {"after": pair.memory["after"] + 1}), None

    def init(params: chex.ArrayTree) -> Eigenpair:
        memory = {"before": jnp.int32(0), "after": jnp.int32(0)}
        return Eigenpair(optax.tree.zeros_like(params), jnp.float32(0), memory)

    _, (state, _) = trajectory(Tracker(before, after, init))
    np.testing.assert_array_equal(state.memory["before"], np.arange(10))
    np.testing.assert_array_equal(state.memory["after"], np.arange(1, 11))


def test_without_a_vector_it_is_normalised_sam() -> None:
    found, _ = trajectory(Tracker())
    expected, _ = trajectory(xsam_jax.power_iteration(), lambda **_: xsam_jax.xsam(alpha=0.0))
    chex.assert_trees_all_close(found, expected, rtol=1e-12)


def test_free_trackers_of_others_do_not_go_with_per_device() -> None:
    with pytest.raises(ValueError, match=r"^eigenvector must be "):
        xsam_jax.xsam(eigenvector=oja(0.3), axis_name="data", per_device=True)


@pytest.mark.parametrize(
    ("tracker", "call"),
    [
        (xsam_jax.oja(), "oja(rate=0.3)"),
        (xsam_jax.oja(np.float32(0.5)), "oja(rate=0.5)"),
        (xsam_jax.subspace(), "subspace(size=4, decay=0.98, ridge=0.2)"),
        (xsam_jax.power_iteration(), "power_iteration(every=5, iters=5, warm_start=True)"),
        (
            xsam_jax.power_iteration(20, 1, warm_start=False, seed=3),
            "power_iteration(every=20, iters=1, warm_start=False, seed=3)",
        ),
    ],
)
def test_a_tracker_is_written_as_its_call(tracker: Tracker, call: str) -> None:
    assert repr(tracker) == call
    again = eval(f"xsam_jax.{call}")
    assert repr(again) == call
    assert again.constants == tracker.constants
