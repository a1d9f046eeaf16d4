"""A finished run keeps its weights, and they are those that it was tested with."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import experiments
from experiments.common.errors import Stopped, UserError
from experiments.data.dataset import Dataset
from experiments.models import ModelName
from experiments.models.network import build_network, inputs_of, network_for
from experiments.training.checkpoint import CHECKPOINTS
from experiments.training.config import Method, TrainConfig
from experiments.training.devices import choose
from experiments.training.program import load_for
from experiments.training.resolve import resolve
from experiments.training.run import train
from tests.documents.text import ROOT
from tests.experiments.training.test_checkpoint import stop_after
from xsam_jax import curvature, mean_grad_fn

CONFIG = TrainConfig(
    model="mlp",
    batch_size=32,
    epochs=1,
    train_images=64,
    test_images=300,
    curvature_samples=64,
    num_matvecs=12,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    train(replace(CONFIG, label_noise=0.5, out=out))
    return out


def test_the_weights_are_those_of_the_result(finished: Path) -> None:
    run = experiments.load(str(finished))
    assert run.result is not None
    assert run.config == resolve(replace(CONFIG, label_noise=0.5, out=finished))
    assert run.epochs[-1].test_accuracy == run.result.test_accuracy
    logits = run.predict(run.data.test_images)  # in two batches
    assert logits.shape == (300, 10)
    accuracy = 100 * np.mean(logits.argmax(-1) == run.data.test_labels)
    assert accuracy == pytest.approx(run.result.test_accuracy, rel=1e-6)
    np.testing.assert_allclose(run.predict(run.data.test_images[:3]), logits[:3], rtol=1e-5)
    assert run.predict(run.data.test_images[:0]).shape == (0, 10)
    test = run.data.test_images, run.data.test_labels
    assert float(run.loss_fn(run.params, test)) == pytest.approx(run.result.test_loss, rel=1e-5)

    # What was measured while it was trained, wrong labels included.
    train_data = jnp.asarray(run.data.train_images), jnp.asarray(run.data.train_labels)
    grad_fn = jax.grad(lambda params: run.loss_fn(params, train_data))
    top = jax.jit(
        lambda p: curvature.top_eigenpairs(grad_fn, p, num_matvecs=12, key=jax.random.key(0))
    )(run.params)
    assert float(top.values[0]) == pytest.approx(run.result.lambda_max, rel=1e-3)
    batches = jax.tree.map(lambda leaf: leaf.reshape(2, 32, *leaf.shape[1:]), train_data)
    chex.assert_trees_all_close(
        mean_grad_fn(run.loss_fn, batches)(run.params), grad_fn(run.params), atol=1e-5
    )


def test_other_data_are_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may have changed in its place: shape, classes and pixels are compared."""
    run = experiments.load(finished)
    data = run.data
    others: dict[str, Dataset] = {
        "pixels": data._replace(train_images=data.train_images // 2),
        "shape": data._replace(train_images=data.train_images[:, :4]),
        "classes": data._replace(num_classes=9),
    }
    for other in others.values():
        monkeypatch.setattr("experiments.training.trained.load_for", lambda _, x=other: x)
        with pytest.raises(UserError, match="digits does not hold the images of the run"):
            _ = experiments.load(finished).data


def test_images_must_be_as_in_the_data_set(finished: Path) -> None:
    run = experiments.load(finished)
    for images in (np.zeros((2, 8, 8, 1)), np.zeros((8, 8, 1), np.uint8), np.zeros(3, np.uint8)):
        with pytest.raises(ValueError, match=r"images must be uint8 of shape \(n, 8, 8, 1\)"):
            run.predict(images)


def test_a_folder_may_be_moved_and_needs_no_data(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = experiments.load(finished)
    out = tmp_path / "moved"
    shutil.copytree(finished, out)
    (out / "config.json").write_text(
        (out / "config.json").read_text().replace('"data_dir": null', '"data_dir": "gone"')
    )
    images = before.data.test_images
    asked: list[Any] = []

    def read(config: Any) -> Dataset:
        asked.append(config.data_dir)
        return before.data

    monkeypatch.setattr("experiments.training.trained.load_for", read)
    run = experiments.load(out)
    np.testing.assert_array_equal(run.predict(images), before.predict(images))
    assert asked == []
    assert run.data is before.data
    assert experiments.load(out, data_dir="there").data is before.data
    assert asked == [Path("gone"), Path("there")]


@pytest.mark.parametrize(("model", "fsdp"), [("resnet8", True), ("small_cnn", False)])
def test_networks_on_many_devices(model: ModelName, fsdp: bool, tmp_path: Path) -> None:
    """With and without BatchNorm."""
    config = replace(
        CONFIG, model=model, method="sam", out=tmp_path, curvature_every=0, test_images=40
    )
    result = train(config, devices=choose(8, fsdp=fsdp)).result
    run = experiments.load(tmp_path)
    logits = run.predict(run.data.test_images)
    accuracy = 100 * np.mean(logits.argmax(-1) == run.data.test_labels)
    assert accuracy == pytest.approx(result.test_accuracy, rel=1e-6)
    assert bool(run.batch_stats) == (model == "resnet8")


@pytest.mark.parametrize("method", ["sgd", "wsam", "xsam_subspace", "xsam_late"])
def test_methods(method: Method, tmp_path: Path) -> None:
    config = replace(CONFIG, method=method, out=tmp_path, curvature_every=0, test_images=40)
    trained = train(config, draw=False)
    run = experiments.load(tmp_path)
    assert trained.state is not None
    chex.assert_trees_all_equal(run.params, trained.state.params)
    test = run.data.test_images, run.data.test_labels
    loss = float(run.loss_fn(run.params, test))
    assert loss == pytest.approx(trained.result.test_loss, rel=1e-5)


@pytest.mark.parametrize("model", get_args(ModelName))
def test_every_network_is_the_same_without_its_data(model: ModelName) -> None:
    """Its functions know the shapes of the trees, and the pixels' mean and deviation."""
    data = load_for(resolve(replace(CONFIG, model=model)))
    inputs = type(inputs_of(data))(**json.loads(json.dumps(inputs_of(data)._asdict())))
    there = jax.eval_shape(lambda: build_network(model, data, jax.random.key(0)).params)
    network = network_for(model, inputs)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), network.params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), there
    )


def test_an_unfinished_run_is_loaded_from_its_last_checkpoint(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=3, out=tmp_path)
    with pytest.raises(Stopped):
        train(config, stopping=stop_after(3))
    file = tmp_path / "metrics.jsonl"
    before = file.read_text()
    file.write_text(before + before)  # a run that was killed had more epochs than its checkpoint
    run = experiments.load(tmp_path)
    assert run.result is None
    assert 0 < len(run.epochs) < 3
    assert len(run.epochs) == before.count("\n")
    assert run.predict(run.data.test_images).shape == (300, 10)


def test_what_cannot_be_loaded_says_why(finished: Path, tmp_path: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(UserError, match=words):
            experiments.load(tmp_path)

    refused("is no folder of a run")
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (weights,) = (tmp_path / CHECKPOINTS).glob("*/run.json")
    weights.write_text("{}")
    refused("damaged weights only")
    shutil.rmtree(tmp_path / CHECKPOINTS)
    refused("a finished run without its weights")
    (tmp_path / "result.json").write_text("{")
    refused("is damaged")
    (tmp_path / "result.json").unlink()
    refused("not finished and has no checkpoint")
    for content in ('{"hidden_size": 768}', "[1]"):
        (tmp_path / "config.json").write_text(content)
        refused("of another program or version")


def test_a_finished_run_is_not_trained_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    first = train(replace(CONFIG, out=str(out)), draw=False)
    files = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    monkeypatch.setattr("experiments.training.run.take_all_steps", None)
    ends: list[Any] = []
    again = train(replace(CONFIG, out=out), on_end=ends.append)
    assert again.result == first.result
    assert again.epochs == first.epochs
    chex.assert_trees_all_equal(again.state, first.state)
    chex.assert_trees_all_equal(ends, [first.state])
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == files
    shutil.rmtree(out / CHECKPOINTS)
    without = train(replace(CONFIG, out=out), on_end=ends.append)
    assert without == (first.result, first.epochs, None)
    assert len(ends) == 1


def test_the_example_of_the_page(finished: Path) -> None:
    page = (ROOT / "docs/training.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    name = "runs/digits-mlp-sam-0"
    assert name in block
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(block.replace(name, str(finished)), "docs/training.md", "exec"), {})
