"""A training whose numbers go wrong: bad steps change nothing, are listed, and come to an end."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.common.errors import BadNumbers
from experiments.train import main
from experiments.training import chunk
from experiments.training.config import TrainConfig
from experiments.training.program import _program
from experiments.training.run import train
from experiments.workers import worker
from tests.experiments.training.test_checkpoint import numbers

# Four steps an epoch.
CONFIG = TrainConfig(
    method="xsam_oja",
    model="mlp",
    batch_size=100,
    epochs=4,
    curvature_every=0,
    curvature_samples=64,
    train_images=400,
    checkpoint_every=1,
)

Poison = Callable[..., None]


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make ``poison(place, first, stop, factor)``, which multiplies in the steps [first, stop)."""
    original = chunk.train_step

    def set_up(place: str, first: int, stop: int, factor: float = math.nan) -> None:
        def train_step(apply: Any, tx: Any, state: Any, *batch: Any) -> Any:
            bad = (state.step >= first) & (state.step < stop)
            spoil = lambda x: x * jnp.where(bad, factor, 1)

            def spoilt_apply(*args: Any) -> Any:
                logits, stats = apply(*args)
                return spoil(logits), stats

            def spoilt_update(*args: Any, **kwargs: Any) -> Any:
                updates, opt_state = tx.update(*args, **kwargs)
                return jax.tree.map(spoil, updates), opt_state

            if place == "loss":
                return original(spoilt_apply, tx, state, *batch)
            spoilt = optax.GradientTransformationExtraArgs(tx.init, spoilt_update)
            return original(apply, spoilt, state, *batch)

        _program.cache_clear()
        monkeypatch.setattr(chunk, "train_step", train_step)

    yield set_up
    _program.cache_clear()


def epochs(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").open()]


@pytest.mark.parametrize(("place", "factor"), [("loss", math.nan), ("update", math.inf)])
def test_bad_steps_change_nothing_and_are_listed(
    place: str,
    factor: float,
    tmp_path: Path,
    poison: Poison,
    capsys: pytest.CaptureFixture[str],
) -> None:
    poison(place, 6, 9, factor)
    states: list[Any] = []
    result = train(replace(CONFIG, out=tmp_path), on_end=states.append, draw=False).result
    assert [epoch["bad_steps"] for epoch in epochs(tmp_path)] == [[], [7, 8], [9], []]
    said = capsys.readouterr().err
    assert "epoch 2: left out steps 7, 8, not finite" in said
    assert "epoch 3: left out step 9, not finite" in said
    assert math.isfinite(result.train_loss)
    for leaf in jax.tree.leaves(states[0]):
        assert np.isfinite(leaf).all()
    assert int(states[0].step) == result.steps == 16
    # 13 good steps are in the optimizer.
    assert int(optax.tree.get(states[0].opt_state, "alignment").size) == 1
    assert {
        int(count) for _, count in optax.tree.get_all_with_path(states[0].opt_state, "count")
    } == {13}
    assert int(states[0].bad_steps) == 0


def test_five_in_a_row_are_the_end(tmp_path: Path, poison: Poison) -> None:
    poison("update", 6, 12)
    config = replace(CONFIG, out=tmp_path / "run")
    for stopping in (lambda: False, None):  # in small chunks; and again, from the checkpoint
        with pytest.raises(BadNumbers, match=r"5 times in a row, first in step 7: ") as error:
            train(config, stopping=stopping, draw=False)
        place = tmp_path / "run" / "checkpoints" / "00000011"
        assert str(place) in str(error.value)
        assert place.is_dir()
        assert not (tmp_path / "run" / "result.json").exists()
    # Nothing is lost.
    train(replace(config, max_bad_steps=7), draw=False)
    train(replace(config, max_bad_steps=7, out=tmp_path / "patient"), draw=False)
    assert numbers(tmp_path / "run") == numbers(tmp_path / "patient")


def test_no_limit(tmp_path: Path, poison: Poison) -> None:
    """A benchmark's trial that diverges has a result."""
    poison("loss", 2, 1000)
    said = worker.run(replace(CONFIG, out=tmp_path))
    assert said["result"]["train_loss"] is None
    assert said["result"]["test_loss"] is not None


def test_status(
    tmp_path: Path,
    poison: Poison,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    poison("loss", 0, 1000)
    options = ["--method=xsam_oja", "--model=mlp", "--epochs=2", "--max-bad-steps=2"]
    monkeypatch.setattr("sys.argv", ["train", *options, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    errors = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("error: loss or update not finite 2 times") for line in errors) == 1
    assert "Traceback" not in "".join(errors)
