"""The paper's Fig. 1: what is measured at a step, and the picture of it."""

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
import pytest

from experiments.figures import runs
from experiments.figures.__main__ import make
from experiments.figures.alignment import Measured, measure, observe
from experiments.figures.angle import Angle, histogram, median_changes, share_of_orthogonal
from experiments.figures.options import train_config
from experiments.figures.runs import folder
from experiments.training.measure import fold
from experiments.training.run import train
from tests.experiments.figures.small_figures import refuse, table, tiny
from xsam_jax import sam


def test_folding_and_histogram() -> None:
    degrees = np.array([0.0, 4.9, 85.0, 90.0, 95.0, 100.0, 100.1, 180.0])
    folded = np.asarray(fold(jnp.asarray(degrees)))
    np.testing.assert_allclose(folded, [0, 4.9, 85, 90, 85, 80, 79.9, 0], atol=1e-4)
    np.testing.assert_allclose(folded, fold(jnp.asarray(180 - degrees)), atol=1e-4)
    counts, edges = histogram(folded)
    assert counts.sum() == len(degrees)
    assert (counts[0], counts[-1], counts[-2], counts[-3]) == (3, 3, 1, 1)
    assert (edges[0], edges[-1], len(edges)) == (0, 90, 19)
    inside = (degrees >= 80) & (degrees <= 100)
    assert share_of_orthogonal(folded) == (100 * inside.mean(), len(degrees))
    assert share_of_orthogonal(np.array([85.0, np.nan, 20.0])) == (50.0, 2)


def test_observed_angles_on_a_quadratic() -> None:
    curvatures = {"a": jnp.array([5.0, 1.0]), "b": jnp.array([2.0])}

    def grad_fn(w: Any) -> Any:
        return jax.tree.map(jnp.multiply, curvatures, w)

    inner = optax.chain(sam(0.1), optax.sgd(0.05))
    measurement = functools.partial(measure, rho=0.1, learning_rate=0.2, num_matvecs=3)
    watched = observe(inner, 5, every=2, measurement=measurement)
    w = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([-1.0])}
    expected, points = w, []
    state, inner_state = watched.init(w), inner.init(w)
    for _ in range(5):
        points.append(expected)
        updates, state = watched.update(grad_fn(w), state, w, grad_fn=grad_fn)
        w = optax.apply_updates(w, updates)
        updates, inner_state = inner.update(
            grad_fn(expected), inner_state, expected, grad_fn=grad_fn
        )
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(np.testing.assert_array_equal, w, expected)

    # What a run that had bad steps did not come to is no measurement.
    assert np.isnan(watched.init(w).measured.plain).all()
    plain, layerwise = [], []
    for point in points[::2]:
        lam, flat = np.array([5.0, 1.0, 2.0]), np.concatenate([point["a"], point["b"]])
        second = lam * (flat + 0.1 * lam * flat / np.linalg.norm(lam * flat))
        plain.append(np.degrees(np.arccos(abs(second[0]) / np.linalg.norm(second))))
        cosine = abs(second[0]) / np.linalg.norm(second[:2]) / np.sqrt(2)
        layerwise.append(np.degrees(np.arccos(cosine)))
    np.testing.assert_allclose(state.measured.plain, plain, rtol=1e-4)
    np.testing.assert_allclose(state.measured.layerwise, layerwise, rtol=1e-4)
    np.testing.assert_allclose(state.measured.top_value, 5, rtol=1e-5)
    np.testing.assert_allclose(state.measured.change, 0, atol=1e-5)  # of a quadratic


def test_the_change_of_the_eigenvalue_by_a_step() -> None:
    """Of (4 w_0^2 + w_1^2) / 2 + w_0^2 w_1: the Hessian is [[4 + 2 w_1, 2 w_0], [2 w_0, 1]]."""
    loss = lambda w: (4 * w[0] ** 2 + w[1] ** 2) / 2 + w[0] ** 2 * w[1]
    w, rho, learning_rate = jnp.array([0.3, 0.5]), 0.1, 0.2
    grad_fn = jax.grad(loss)
    grads = grad_fn(w)
    found = measure(grad_fn, w, grads, rho=rho, learning_rate=learning_rate, num_matvecs=2)
    second = grad_fn(w + rho * grads / jnp.linalg.norm(grads))
    before, after = (
        np.linalg.eigvalsh(jax.hessian(loss)(at))[-1] for at in (w, w - learning_rate * second)
    )
    np.testing.assert_allclose(found.change, after / before - 1, rtol=1e-4)
    assert found.change < -0.05


def test_median_changes() -> None:
    degrees, change = np.array([10.0, 79, 85, 90, 20]), np.array([0.5, 0.3, -0.1, 0.0, np.nan])
    none = np.zeros(5)
    found = median_changes(Measured(degrees, none, none, none, change))
    np.testing.assert_allclose(found, [0.4, -0.05])
    below, _ = median_changes(Measured(degrees[2:4], none, none, none, change[2:4]))
    assert np.isnan(below)


def test_angle_makes_its_files_once_and_changes_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Angle(**{**tiny(tmp_path), "every": 2, "num_matvecs": 4})
    make(options)
    lines = table(options.out / "angle.csv")
    assert [line["step"] for line in lines] == ["0", "2"]
    assert all(0 <= float(line[name]) <= 90 for line in lines for name in ("plain", "layerwise"))
    width = matplotlib.image.imread(options.out / "angle.png").shape[1]
    assert width > 500

    config = train_config(options, method="sam", seed=0, curvature_every=0)
    plain = train(replace(config, out=tmp_path / "plain")).result
    out = folder(config, options.runs, ["angles-and-changes-2-4.npz"])
    watched = json.loads((out / "result.json").read_text())
    assert plain.train_loss == watched["train_loss"]

    monkeypatch.setattr(runs, "train", refuse)
    before = (options.out / "angle.csv").read_bytes()
    (options.out / "angle.csv").unlink()
    make(options)
    assert (options.out / "angle.csv").read_bytes() == before
    with pytest.raises(AssertionError, match="started again"):
        make(replace(options, every=3))
