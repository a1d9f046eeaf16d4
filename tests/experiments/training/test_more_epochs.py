"""A finished run that is given more epochs goes on from its end, and says so where it matters."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import chex
import pytest

import experiments
from experiments.common.errors import Stopped, UserError
from experiments.training.checkpoint import CHECKPOINTS
from experiments.training.config import TrainConfig, identity
from experiments.training.run import train
from experiments.workers.planned import Planned
from tests.experiments.training.test_checkpoint import numbers, stop_after

# Four steps an epoch.
CONFIG = TrainConfig(
    method="xsam_oja",
    model="mlp",
    batch_size=100,
    epochs=4,
    curvature_every=0,
    train_images=400,
    test_images=100,
    schedule="constant",
)


def config_of(out: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((out / "config.json").read_text())
    return fields


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("at_once")
    train(replace(CONFIG, out=out))
    return out


@pytest.mark.parametrize("stopped_after", [None, 2])
def test_a_constant_schedule_is_as_if_trained_at_once(
    stopped_after: int | None,
    at_once: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(replace(CONFIG, epochs=2, out=tmp_path), draw=False)
    more = replace(CONFIG, out=tmp_path)
    if stopped_after is not None:
        with pytest.raises(Stopped):
            train(more, stopping=stop_after(stopped_after))
    found = train(more)
    assert "continued_at" not in capsys.readouterr().err
    assert numbers(tmp_path) == numbers(at_once)
    assert found.result.continued_at == []
    assert config_of(tmp_path) == config_of(at_once) | {"out": str(tmp_path)}
    there = experiments.load(at_once)
    chex.assert_trees_all_equal(experiments.load(tmp_path).params, there.params)
    assert len([*(tmp_path / CHECKPOINTS).iterdir()]) == 1


def test_a_schedule_that_knows_its_end_is_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cosine = replace(CONFIG, schedule="cosine", epochs=2)
    out = tmp_path / "run"
    train(replace(cosine, out=out), draw=False)
    assert "continued_at" not in config_of(out)
    with pytest.raises(Stopped):
        train(replace(cosine, epochs=3, out=out), stopping=stop_after(3))
    assert experiments.load(out).continued_at == (2,)
    train(replace(cosine, epochs=3, out=out))
    assert capsys.readouterr().err.count("continued_at") == 1
    found = train(replace(cosine, epochs=4, out=out))
    assert capsys.readouterr().err.count("continued_at") == 1
    assert found.result.continued_at == config_of(out)["continued_at"] == [2, 3]
    assert experiments.load(out).continued_at == (2, 3)

    at_once = train(replace(cosine, epochs=4), keep=False)
    epochs = [e._replace(seconds=0) for e in found.epochs]
    assert [e.epoch for e in epochs] == [1, 2, 3, 4]
    assert epochs[0].train_loss != at_once.epochs[0].train_loss
    assert found.result.test_loss != at_once.result.test_loss
    # It is finished, and what it is does not depend on how it came there.
    assert train(replace(cosine, epochs=4, out=out)).result == found.result


def test_methods_that_know_their_end() -> None:
    from experiments.training.methods import knows_its_end
    from experiments.training.resolve import resolve

    assert not knows_its_end(resolve(CONFIG))
    assert knows_its_end(resolve(replace(CONFIG, method="xsam_late")))
    assert knows_its_end(resolve(replace(CONFIG, schedule="linear")))


def test_what_cannot_go_on_is_refused_and_left_as_it_is(at_once: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(at_once, out)

    def refused(config: TrainConfig, words: str) -> None:
        before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
        with pytest.raises(UserError, match=words):
            train(replace(config, out=out))
        assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before

    refused(replace(CONFIG, epochs=2), "a finished run with other values of epochs")
    refused(replace(CONFIG, epochs=6, seed=1), "a finished run with other values of seed, epochs")
    (damaged,) = (out / CHECKPOINTS).glob("*/run.json")
    damaged.write_text("{}")
    refused(replace(CONFIG, epochs=6), "finished after 4 epochs, but no weights to go on from")
    shutil.rmtree(out / CHECKPOINTS)
    refused(replace(CONFIG, epochs=6), "finished after 4 epochs, but no weights to go on from")


def test_an_unfinished_run_keeps_its_length(tmp_path: Path) -> None:
    config = replace(CONFIG, out=tmp_path)
    with pytest.raises(Stopped):
        train(config, stopping=stop_after(2))
    with pytest.raises(UserError, match="an unfinished run with other values of epochs"):
        train(replace(config, epochs=6))


def test_a_key_of_a_benchmark_knows_nothing_of_it(at_once: Path) -> None:
    """It is that of a run at once, whatever else stands in a config.json."""
    planned = Planned("final", CONFIG)
    assert "continued_at" not in planned.fields
    assert planned.fields.keys() == identity(config_of(at_once)).keys()
