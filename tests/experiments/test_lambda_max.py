"""The largest eigenvalue of a data set, batch by batch, is that of the whole loss."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.data.sources import load
from experiments.lambda_max import LambdaMaxConfig, main, measure
from experiments.models.network import Batch, build_network, loss_and_outcome
from tests.experiments.conftest import Fails
from xsam_jax import curvature


def test_batches_do_not_change_it() -> None:
    found = measure(LambdaMaxConfig(model="mlp", images=64, batch_size=16, num_matvecs=12))
    data = load("digits")
    network = build_network("mlp", data, jax.random.key(0))
    batch = Batch(jnp.asarray(data.train_images[:64]), jnp.asarray(data.train_labels[:64]))

    def loss(params: object) -> jax.Array:
        return loss_and_outcome(network.train, params, network.batch_stats, batch)[0]

    whole = curvature.top_eigenpairs(
        jax.grad(loss), network.params, num_matvecs=30, key=jax.random.key(1)
    )
    assert found["lambda_max"] == pytest.approx(float(whole.values[0]), rel=1e-3)
    assert found["residual"] < 0.05 * found["lambda_max"]
    assert found["products"] == {64: 13}


def test_a_start_from_fewer_images_saves_products() -> None:
    options = {"model": "mlp", "images": 128, "batch_size": 32, "num_matvecs": 3}
    cold = measure(LambdaMaxConfig(**options))
    warm = measure(LambdaMaxConfig(**options, start_images=64, start_matvecs=12))
    assert warm["products"] == {64: 13, 128: 4}
    assert warm["residual"] < cold["residual"] / 2
    assert warm["lambda_max"] > cold["lambda_max"]
    again = measure(LambdaMaxConfig(**options, start_images=128, start_matvecs=12))
    assert again["products"] == {128: 17}


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    options = ["--model", "mlp", "--out", str(tmp_path), "--num-matvecs", "2"]
    assert "--images must be a multiple" in fails(main, [*options, "--images", "100"])
    assert "--start-images must be a multiple" in fails(main, [*options, "--start-images", "100"])
    assert "at least 1" in fails(main, [*options, "--num-matvecs", "0"])
    assert "--start-matvecs is for a start" in fails(main, [*options, "--start-matvecs", "7"])
    monkeypatch.setattr(sys, "argv", ["program", *options, "--images", "128"])
    main()
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["products"] == {"128": 3}
