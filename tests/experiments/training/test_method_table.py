"""Every name of a method gives its transformation before the same base optimizer."""

import dataclasses
from typing import Any, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.training.config import Method, TrainConfig
from experiments.training.methods import METHODS, ONE_GRADIENT, build_method, gradients_per_step
from experiments.training.resolve import resolve
from xsam_jax import oja, subspace, xsam

PARAMS = {"w": jnp.array([1.0, -2.0, 3.0]), "b": jnp.array(0.5)}
CURVATURE = jnp.array([5.0, 1.0, 0.1])


def loss(params: dict[str, jax.Array]) -> jax.Array:
    return jnp.sum(CURVATURE * params["w"] ** 2) + jnp.cos(params["b"]) * params["w"][0]


GRADS = jax.grad(loss)(PARAMS)


def trajectory(method: Method, steps: int, **options: Any) -> list[dict[str, jax.Array]]:
    tx = build_method(resolve(TrainConfig(method=method, **options)), total_steps=10)
    update = jax.jit(lambda state: tx.update(GRADS, state, PARAMS, grad_fn=jax.grad(loss)))
    state, updates = tx.init(PARAMS), []
    for _ in range(steps):
        found, state = update(state)
        updates.append(found)
    return updates


def updates(method: Method, **options: Any) -> dict[str, jax.Array]:
    return trajectory(method, 1, **options)[0]


@pytest.mark.parametrize(
    ("method", "tracker"), [("xsam_oja", oja()), ("xsam_subspace", subspace())]
)
def test_trackers_without_products(method: Method, tracker: Any) -> None:
    tx = build_method(resolve(TrainConfig(method=method, rho=0.1)), total_steps=10)
    bare = xsam(0.1, eigenvector=tracker)
    state, expected = tx.init(PARAMS), bare.init(PARAMS)
    for offset in (0.0, 1.0, 2.0):
        params = {name: leaf + offset for name, leaf in PARAMS.items()}
        grads = jax.grad(loss)(params)
        _, state = tx.update(grads, state, params, grad_fn=jax.grad(loss))
        _, expected = bare.update(grads, expected, params, grad_fn=jax.grad(loss))
    chex.assert_trees_all_equal(state[0], expected)


def test_every_name_is_in_the_table() -> None:
    assert {*METHODS} == {*get_args(Method)}
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    assert all(fields >= {*spec.options} for spec in METHODS.values())


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_descends(method: Method) -> None:
    update = updates(method, rho=0.01)
    slope = sum(jnp.vdot(update[name], GRADS[name]) for name in PARAMS)
    assert float(slope) < 0


def test_base_optimizer() -> None:
    update = updates("sgd", learning_rate=0.3, weight_decay=0.1)
    for name in PARAMS:
        expected = -0.3 * (GRADS[name] + 0.1 * PARAMS[name])
        np.testing.assert_allclose(update[name], expected, rtol=1e-6)


def test_momentum_and_cosine() -> None:
    update = trajectory("sgd", 2, learning_rate=0.3, momentum=0.5, weight_decay=0.0)[1]
    factor = -0.3 * (1 + np.cos(np.pi / 10)) / 2 * 1.5
    np.testing.assert_allclose(update["w"], factor * GRADS["w"], rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "factors"), [("constant", (1.0, 1.0)), ("linear", (1.0, 0.9))]
)
def test_schedules(schedule: str, factors: tuple[float, float]) -> None:
    options: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "schedule": schedule}
    for update, factor in zip(trajectory("sgd", 2, **options), factors, strict=True):
        np.testing.assert_allclose(update["w"], -0.1 * factor * GRADS["w"], rtol=1e-6)


def test_adamw_is_a_base_optimizer() -> None:
    found = updates("normalized_sgd", optimizer="adamw", weight_decay=0.1)["w"]
    direction = unit(GRADS)["w"]
    expected = -0.1 * (direction / (jnp.abs(direction) + 1e-8) + 0.1 * PARAMS["w"])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_normalized_sam_is_xsam_without_correction() -> None:
    control = updates("normalized_sam", weight_decay=0.0)
    np.testing.assert_allclose(
        control["w"], updates("xsam", weight_decay=0.0, alpha=0.0)["w"], rtol=1e-5
    )
    assert not np.allclose(control["w"], updates("xsam", weight_decay=0.0)["w"], rtol=1e-3)


def unit(tree: dict[str, jax.Array]) -> dict[str, jax.Array]:
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in tree.values()))
    return {name: leaf / norm for name, leaf in tree.items()}


@pytest.mark.parametrize(
    ("method", "options", "sharp"),
    [
        ("xsam_sparse", {"sparse_every": 3}, [True, False, False, True, False]),
        ("xsam_late", {"late_start": 0.3}, [False, False, False, True, True]),
        ("normalized_sgd", {}, [False] * 5),
    ],
)
def test_cheap_methods_are_xsam_in_some_steps(
    method: Method, options: dict[str, float], sharp: list[bool]
) -> None:
    """Without momentum a step's length is the learning rate's, its direction one of two."""
    options |= {"momentum": 0.0, "weight_decay": 0.0, "rho": 3.0}
    plain, found = unit(GRADS), trajectory(method, len(sharp), **options)
    for update, expected in zip(found, sharp, strict=True):
        direction = unit(update)
        cosine = -sum(float(jnp.vdot(direction[name], plain[name])) for name in PARAMS)
        assert (cosine < 1 - 1e-4) == expected
    rate = 0.1 * (1 + np.cos(np.pi * (len(sharp) - 1) / 10)) / 2
    norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in found[-1].values()))
    assert norm == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize("method", get_args(Method))
def test_a_zero_gradient_is_a_zero_step(method: Method) -> None:
    zero = lambda params: jax.tree.map(jnp.zeros_like, params)
    config = resolve(TrainConfig(method=method, weight_decay=0.0))
    tx = build_method(config, total_steps=10)
    update, _ = tx.update(zero(PARAMS), tx.init(PARAMS), PARAMS, grad_fn=zero)
    chex.assert_trees_all_equal(update, zero(PARAMS))


# Here a part of the batch makes no difference, and Lanczos takes a product a dimension at most.
@pytest.mark.parametrize("method", sorted(set(get_args(Method)) - {"xsam_part", "xsam_lanczos"}))
def test_gradients_are_as_many_as_they_are_said_to_be(method: Method) -> None:
    config = resolve(TrainConfig(method=method, refresh_every=6, power_iters=2))
    tx = build_method(config, total_steps=30)
    evaluations = []

    def counted(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
        jax.debug.callback(lambda: evaluations.append(None))
        return jax.grad(loss)(params)

    @jax.jit
    def step(params: dict[str, jax.Array], state: optax.OptState) -> Any:
        update, state = tx.update(counted(params), state, params, grad_fn=counted)
        return optax.apply_updates(params, update), state

    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(30):
        params, state = step(params, state)
    jax.effects_barrier()
    gradients = gradients_per_step(config.to_json())
    # A product evaluates one gradient, and is worth two.
    products = 0.0 if method in ONE_GRADIENT else max(gradients - 2, 0) / 2
    assert len(evaluations) / 30 == pytest.approx(gradients - products)
