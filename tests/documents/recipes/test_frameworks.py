"""Equinox and Haiku: SAM's steps, and the statistics of plain passes."""

from typing import Any

import chex
import jax
import numpy as np
import optax
import pytest

from tests.documents.blocks import recipe, run
from tests.documents.recipes.by_hand import XSAM, descend, sam_gradient
from xsam_jax import sam

BASE = optax.sgd(0.1, momentum=0.9)


def assert_apart(found: Any, other: Any) -> None:
    """What the recipe must not give is far from what it gives."""
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(other), strict=True)
    assert max(float(np.max(np.abs(a - b))) for a, b in leaves) > 1e-4


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_equinox(rho: float) -> None:
    """With a radius of 0 they are the steps of the base optimizer."""
    names = run(recipe("frameworks", "Equinox"), {XSAM: "method"}, method=sam(rho))
    eqx, gradient, x, y = (names[name] for name in ("eqx", "gradient", "x", "y"))
    model, statistics = eqx.nn.make_with_state(names["Net"])(jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    state = BASE.init(params)

    def plain(params: Any, statistics: Any) -> Any:
        return gradient(eqx.combine(params, static), statistics, x, y)[1]

    def passed(params: Any, statistics: Any) -> Any:
        return gradient(eqx.combine(params, static), statistics, x, y)[0][1]

    for _ in range(3):
        grads = sam_gradient(plain, params, rho, statistics)
        elsewhere = optax.tree.add_scale(params, 1.0, plain(params, statistics))
        perturbed = passed(elsewhere, statistics)
        statistics = passed(params, statistics)
        params, state = descend(BASE, grads, state, params)

    found = eqx.filter(names["model"], eqx.is_inexact_array), names["statistics"]
    expected = params, statistics
    chex.assert_trees_all_close(
        jax.tree.leaves(found), jax.tree.leaves(expected), rtol=1e-10, atol=1e-12
    )
    assert_apart(names["statistics"], perturbed)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_haiku(rho: float) -> None:
    """Both passes have the mask of their step's key, and each step another."""
    names = run(recipe("frameworks", "Haiku"), {XSAM: "method"}, method=sam(rho))
    net, gradient, x, y = (names[name] for name in ("net", "gradient", "x", "y"))
    params, statistics = net.init(jax.random.key(1), x, train=True)
    state = BASE.init(params)
    keys = jax.random.split(jax.random.key(2), 3)
    plain = lambda params, statistics, key: gradient(params, statistics, key, x, y)[1]
    passed = lambda params, statistics, key: gradient(params, statistics, key, x, y)[0][1]
    for key in keys:
        grads = sam_gradient(plain, params, rho, statistics, key)
        elsewhere = optax.tree.add_scale(params, 1.0, plain(params, statistics, key))
        perturbed = passed(elsewhere, statistics, key)
        statistics = passed(params, statistics, key)
        params, state = descend(BASE, grads, state, params)

    found = names["params"], names["statistics"]
    chex.assert_trees_all_close(found, (params, statistics), rtol=1e-10, atol=1e-12)
    assert_apart(names["statistics"], perturbed)
    first, other = (net.apply(params, statistics, key, x, train=True)[0] for key in keys[:2])
    assert_apart(first, other)  # of other masks


def test_haikus_statistics_are_the_batchs_own() -> None:
    """After one step the debiased ones are those of the first layer's output, at its start."""
    block = recipe("frameworks", "Haiku")
    names = run(block, {"jax.random.split(jax.random.key(2), 3)": "[jax.random.key(2)]"})
    x = np.asarray(names["x"])
    params, _ = names["net"].init(jax.random.key(1), x, train=True)
    h = x @ np.asarray(params["linear"]["w"]) + np.asarray(params["linear"]["b"])
    statistics = names["statistics"]
    np.testing.assert_allclose(
        np.ravel(statistics["batch_norm/~/mean_ema"]["average"]), h.mean(0), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(
        np.ravel(statistics["batch_norm/~/var_ema"]["average"]), h.var(0), rtol=1e-10
    )
