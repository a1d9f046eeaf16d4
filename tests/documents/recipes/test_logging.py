"""What is logged, restored and swept, against the same computed without the recipe."""

import csv
import functools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from tests.documents.blocks import recipe, run


def test_curvature_in_csv_and_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last row has the dense Hessian's eigenvalue and angle, and the state's own estimates."""
    names = run(recipe("logging", "Measured curvature, to CSV and TensorBoard"))
    with Path("curvature.csv").open() as file:
        rows = [{name: float(x) for name, x in row.items()} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == [20, 40, 60, 80, 100]
    last, state, x, y = rows[-1], names["state"], names["x"], names["y"]

    w, unravel = ravel_pytree(names["params"])
    loss = lambda w: names["loss_fn"](unravel(w), x, y)
    values, vectors = np.linalg.eigh(jax.hessian(loss)(w))
    g = jax.grad(loss)(w)
    g_adv = jax.grad(loss)(w + 0.05 * g / jnp.linalg.norm(g))
    cosine = abs(g_adv @ vectors[:, -1]) / jnp.linalg.norm(g_adv)
    np.testing.assert_allclose(last["eigenvalue"], values[-1], atol=2 * last["residual"] + 1e-12)
    np.testing.assert_allclose(last["eigenvalue"], values[-1], rtol=1e-6)
    np.testing.assert_allclose(last["angle"], np.rad2deg(np.arccos(cosine)), rtol=1e-3)

    np.testing.assert_allclose(last["loss"], loss(w), rtol=1e-10)
    assert last["estimate/eigenvalue"] == float(optax.tree.get(state, "eigenvalue"))
    alignment = abs(float(optax.tree.get(state, "alignment")))
    estimate = np.rad2deg(np.arccos(alignment))
    np.testing.assert_allclose(last["estimate/angle"], estimate, rtol=1e-5)

    # Else it imports tensorflow where that is installed, which takes ten seconds.
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", ModuleType("notf"))
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs tensorboard: pip install -e '.[dev]'",
    )
    board = events.EventAccumulator("runs/xsam").Reload()
    for name in rows[0].keys() - {"step"}:
        scalars = board.Scalars(name)
        assert [scalar.step for scalar in scalars] == [20, 40, 60, 80, 100]
        expected = np.array([row[name] for row in rows], np.float32)
        np.testing.assert_array_equal([scalar.value for scalar in scalars], expected)


def test_a_restored_run_goes_on_as_if_it_had_not_stopped() -> None:
    with jax.enable_x64(False):  # which orbax's threads would not see
        names = run(recipe("logging", "Save and restore"))
        expected = names["init"]()
        for _ in range(10):
            expected = names["step"](expected)
    chex.assert_trees_all_equal_structs(names["run"], expected)
    chex.assert_trees_all_equal_dtypes(names["run"], expected)
    chex.assert_trees_all_equal(names["run"], expected)
    assert Path("checkpoint").is_dir()


def normalized_descent(names: dict[str, Any], seed: int) -> Any:
    """The sweep's run for a radius and a correction of 0, which needs no method."""
    first, second, order = jax.random.split(jax.random.key(seed), 3)
    normal = jax.random.normal
    params = {"hidden": normal(first, (4, 8)) / 2, "out": normal(second, (8,)) / 3}
    x, y, loss_fn = names["x"], names["y"], names["loss_fn"]
    rate = optax.cosine_decay_schedule(0.1, decay_steps=60)

    def step(params: Any, key_and_count: Any) -> Any:
        key, count = key_and_count
        batch = jax.random.choice(key, 192, [32])
        grads = jax.grad(loss_fn)(params, x[batch], y[batch])
        return optax.tree.add_scale(params, -rate(count) / optax.tree.norm(grads), grads), None

    params, _ = jax.lax.scan(step, params, (jax.random.split(order, 60), jnp.arange(60)))
    return loss_fn(params, x[192:], y[192:])


def test_a_row_of_the_sweep_is_the_single_run() -> None:
    names = run(recipe("logging", "A sweep in one program"))
    losses, rhos, alphas = names["losses"], names["rhos"], names["alphas"]
    assert losses.shape == (3, 2, 4)
    assert len(np.unique(losses)) == 24  # each number has its effect
    for i, j, k in ((1, 1, 2), (2, 0, 3)):
        alone = jax.jit(functools.partial(names["train"], float(rhos[i]), float(alphas[j]), k))
        np.testing.assert_allclose(losses[i, j, k], alone(), rtol=1e-9)
    np.testing.assert_allclose(losses[0, 0, 1], normalized_descent(names, 1), rtol=1e-9)
