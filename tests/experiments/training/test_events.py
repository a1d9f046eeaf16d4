"""Event files, read back as TensorBoard reads them."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.common.errors import Stopped, UserError
from experiments.training.config import TrainConfig
from experiments.training.events import FOLDER, event_files
from experiments.training.run import train
from experiments.training.step import EpochMetrics
from tests.experiments.training.test_checkpoint import stop_after

CONFIG = TrainConfig(
    method="xsam_oja",
    model="mlp",
    batch_size=100,
    epochs=3,
    curvature_every=2,
    curvature_samples=64,
    num_matvecs=4,
    train_images=400,
    checkpoint_every=1,
)


def scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every tag."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        events = found.EventAccumulator(str(out / FOLDER)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_a_run_that_goes_on_has_every_step_once(tmp_path: Path) -> None:
    config = replace(CONFIG, out=tmp_path)
    with pytest.raises(Stopped):
        # In the third epoch, of which the first checkpoint knows nothing.
        train(config, stopping=stop_after(8), tensorboard=True)
    assert len(scalars(tmp_path)["loss/test"]) >= 1
    train(config, tensorboard=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    found = scalars(tmp_path)
    losses = [loss for line in lines for loss in line["step_losses"]]
    steps, values = zip(*found.pop("loss/step"), strict=True)
    assert steps == tuple(range(1, 13))
    np.testing.assert_allclose(values, losses, rtol=1e-6)
    for tag, points in found.items():
        name = {"loss": "{}_loss", "accuracy": "{}_accuracy", "curvature": "{}"}[
            tag.split("/")[0]
        ].format(tag.split("/")[1])
        known = [(4 * line["epoch"], line[name]) for line in lines if line[name] is not None]
        steps, values = zip(*points, strict=True)
        assert list(steps) == [step for step, _ in known]
        np.testing.assert_allclose(values, [value for _, value in known], rtol=1e-6)
    assert len(found) == 6
    assert len(found["curvature/angle"]) == 2


def test_what_is_not_finite_is_there_too(tmp_path: Path) -> None:
    epoch = EpochMetrics(1, float("nan"), 1.0, 2.0, 3.0, None, None, 1.0, [2], [0.5, float("nan")])
    with event_files(tmp_path) as write:
        write([epoch])
        write([epoch])
    (one, two) = scalars(tmp_path)["loss/step"]
    assert one == (1, 0.5)
    assert two[0] == 2
    assert np.isnan(two[1])


def test_only_where_they_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, epochs=1, out=tmp_path / "run")
    with pytest.raises(ValueError, match="tensorboard=True needs keep=True"):
        train(config, keep=False, tensorboard=True)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install -e '.\[tensorboard\]'"):
            train(config, tensorboard=True)
    assert not (tmp_path / "run").exists()
    train(config)
    assert not (tmp_path / "run" / FOLDER).exists()
