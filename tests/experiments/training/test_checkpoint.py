"""A run that is stopped, killed or damaged ends with the numbers of one that was not."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.errors import Stopped, UserError, graceful_stop
from experiments.training import checkpoint
from experiments.training.checkpoint import CHECKPOINTS, Snapshot
from experiments.training.config import TrainConfig
from experiments.training.run import train
from experiments.training.step import StepMetrics, TrainState
from tests.experiments.conftest import Fails

CONFIG = TrainConfig(
    method="xsam_oja",
    model="mlp",
    batch_size=100,
    epochs=4,
    curvature_every=2,
    curvature_samples=64,
    num_matvecs=4,
    train_images=400,
    checkpoint_every=1,
)
OPTIONS = [
    *("--method", "xsam_oja", "--model", "mlp", "--batch-size", "100", "--epochs", "60"),
    *("--curvature-every", "20", "--curvature-samples", "64", "--num-matvecs", "4"),
    *("--train-images", "400", "--checkpoint-every", "1", "--devices", "1"),
]


def numbers(out: Path) -> tuple[Any, list[Any]]:
    """Read everything of a finished run but its wall times."""
    result = json.loads((out / "result.json").read_text())
    epochs = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    return {**result, "seconds": 0}, [{**epoch, "seconds": 0} for epoch in epochs]


def stop_after(calls: int) -> Callable[[], bool]:
    left = iter(range(calls))
    return lambda: next(left, None) is None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    train(replace(CONFIG, out=out))
    return out


def snapshot(step: int, epochs: int = 0) -> Snapshot:
    rng = np.random.default_rng(step)
    params = {
        "w": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
        "b": jnp.ones(2, jnp.bfloat16),
    }
    state = TrainState(jnp.int32(step), params, {}, (params, jnp.int32(step), ()), jnp.int32(2))
    metrics = StepMetrics(*jnp.asarray(rng.normal(size=(2, 5)), jnp.float32))
    past = [StepMetrics(*rng.normal(size=(2, 5)).astype(np.float32)) for _ in range(epochs)]
    return Snapshot(state, metrics, past, [], 1.5)


def test_everything_comes_back(tmp_path: Path) -> None:
    for step in (3, 5, 7):
        checkpoint.save(tmp_path, "run", snapshot(step))
    # The last two are kept.
    assert sorted(p.name for p in (tmp_path / CHECKPOINTS).iterdir()) == ["00000005", "00000007"]
    found = checkpoint.restore(tmp_path, "run", snapshot(0))
    jax.tree.map(np.testing.assert_array_equal, found, snapshot(7))
    assert jax.tree.map(lambda x: x.dtype, found.state) == jax.tree.map(
        lambda x: x.dtype, snapshot(7).state
    )
    checkpoint.keep_last(tmp_path)
    assert [p.name for p in (tmp_path / CHECKPOINTS).iterdir()] == ["00000007"]


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _null(file: Path) -> None:
    file.write_text("null")


@pytest.mark.parametrize("harm", [_truncate, _flip, Path.unlink, _null])
def test_any_damaged_file_is_named_and_the_checkpoint_before_it_taken(
    harm: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (3, 5):
        checkpoint.save(tmp_path / "whole", "run", snapshot(step))
    place = Path(CHECKPOINTS, "00000005")
    files = [p for p in (tmp_path / "whole" / place).rglob("*") if p.is_file() and p.stat().st_size]
    # One of orbax's arrays and one of its indices, and both of our own.
    arrays = [p for p in files if "arrays" in p.parts]
    files = [*arrays[:2], *(p for p in files if p.parent.name == place.name)]
    assert len({*files}) == 4
    for file in files:
        out = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", out)
        harm(out / file.relative_to(tmp_path / "whole"))
        found = checkpoint.restore(out, "run", snapshot(0))
        assert int(found.state.step) == 3, file
        # Of damaged checksums it is a file that they no longer fit.
        assert file.name in (said := capsys.readouterr().err) or file.name == "SHA256SUMS"
        assert f"{place} is damaged" in said
        assert "begins anew" not in said
        shutil.rmtree(out)


def test_a_run_of_damaged_checkpoints_alone_begins_anew_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoint.restore(tmp_path, "run", snapshot(0)) is None
    assert not capsys.readouterr().err
    checkpoint.save(tmp_path, "run", snapshot(3))
    _truncate(checkpoint.place_of(tmp_path, 3) / "run.json")
    assert checkpoint.restore(tmp_path, "run", snapshot(0)) is None
    assert capsys.readouterr().err.endswith("no whole checkpoint is left: the run begins anew\n")


def test_a_write_that_fails_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, "run", snapshot(3))
    with monkeypatch.context() as patch:

        def full(self: Path, text: str) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(Path, "write_text", full)
        with pytest.raises(UserError, match=r"no checkpoint can be .*: No space left on device\."):
            checkpoint.save(tmp_path, "run", snapshot(5))
    assert [p.name for p in (tmp_path / CHECKPOINTS).iterdir()] == ["00000003"]
    assert int(checkpoint.restore(tmp_path, "run", snapshot(0)).state.step) == 3


def test_another_version_of_the_program_is_told_apart(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "run", snapshot(3))
    start = snapshot(0)
    wider = start.state._replace(params={"w": jnp.ones((3, 2)), "b": jnp.ones(2)})
    with pytest.raises(UserError, match="another version of this program"):
        checkpoint.restore(tmp_path, "run", start._replace(state=wider))


def test_another_run_is_told_apart(tmp_path: Path) -> None:
    """Where config.json, which would have told, was removed."""
    checkpoint.save(tmp_path, "run", snapshot(3))
    with pytest.raises(UserError, match=r"of a run with other options: name another .*remove"):
        checkpoint.restore(tmp_path, "another", snapshot(0))


@pytest.mark.parametrize("calls", [0, 2, 5, 7])
def test_a_stopped_run_goes_on(calls: int, undisturbed: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, out=tmp_path, checkpoint_every=0)
    with pytest.raises(Stopped, match="stopped after step"):
        train(config, stopping=stop_after(calls))
    assert not (tmp_path / "result.json").exists()
    train(config)
    assert numbers(tmp_path) == numbers(undisturbed)
    assert [p.name for p in (tmp_path / CHECKPOINTS).iterdir()] == ["00000016"]


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, out=tmp_path)
    with pytest.raises(Stopped):
        train(config, stopping=stop_after(2))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="holds an unfinished run with other values of seed"):
        train(replace(config, seed=4))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def launch(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "experiments.train", *OPTIONS, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(out: Path) -> None:
    with launch(out) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors


def epochs_of(out: Path) -> int:
    file = out / "metrics.jsonl"
    # A run that goes on from its start removes the file.
    try:
        return len(file.read_text().splitlines())
    except FileNotFoundError:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals(number: int, status: int, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with launch(out) as process:
        while epochs_of(out) < 2 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == status
    assert "stopped after step" in errors
    assert "Traceback" not in errors
    assert list((out / CHECKPOINTS).iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_interrupts_at_once(number: int) -> None:
    before = signal.signal(number, signal.default_int_handler)
    try:
        with graceful_stop() as stopping:
            signal.raise_signal(number)
            assert stopping()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    finally:
        signal.signal(number, before)


@pytest.mark.slow
def test_killed_at_random(tmp_path: Path) -> None:
    """XSAM_KILLS sets how often; the run goes on each time and ends as if nothing had happened."""
    kills, rng = int(os.environ.get("XSAM_KILLS", "3")), random.Random(0)
    finish(tmp_path / "undisturbed")
    out, half_written = tmp_path / "killed", []
    while len(half_written) < kills:
        began = epochs_of(out)
        with launch(out) as process:
            # From the first checkpoint that this process adds, at any moment.
            while epochs_of(out) <= began and process.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
            process.communicate()
        if process.returncode == 0:
            assert numbers(out) == numbers(tmp_path / "undisturbed")
            shutil.rmtree(out)
        else:
            half_written.append(any((out / CHECKPOINTS).glob(".*.tmp")))
    finish(out)
    assert numbers(out) == numbers(tmp_path / "undisturbed")
    print(f"{sum(half_written)} of {kills} kills left a half-written checkpoint")


def test_a_folder_that_cannot_be_written(tmp_path: Path, fails: Fails) -> None:
    from experiments.train import main

    (tmp_path / "file").touch()
    message = fails(main, [*OPTIONS, "--out", str(tmp_path / "file" / "run")])
    assert "cannot be written" in message
