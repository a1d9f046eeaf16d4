"""The comparison of the trackers: on a least-squares problem whose Hessian is known."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models.network import Batch
from experiments.tracking.__main__ import TrackingConfig, main, measure, of_problem
from experiments.tracking.candidates import all_watchers
from experiments.tracking.measure import OWN_BATCH, Sizes, compile_programs, watch
from experiments.tracking.problems import Evaluation, Problem
from experiments.tracking.report import pareto_front, spread
from experiments.tracking.watcher import Watcher
from experiments.training.measure import fixed_subset
from tests.experiments.conftest import Fails

SIZES = Sizes(steps=120, batch_size=64, burn_in=60, every=20, sample_size=256, num_matvecs=6)


def least_squares() -> Problem:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(512, 6)) * np.array([2.0, 1.2, 0.8, 0.5, 0.3, 0.1])

    def loss(w: jax.Array, batch: Batch) -> jax.Array:
        return jnp.mean((batch.images @ w - batch.labels) ** 2) / 2

    data = Batch(jnp.asarray(features, jnp.float32), jnp.asarray(rng.normal(size=512), jnp.float32))
    return Problem(lambda seed: jnp.ones(6) * seed, loss, data, 0.1)


@pytest.mark.slow
def test_every_tracker_follows_a_known_eigenvector() -> None:
    problem, watchers = least_squares(), all_watchers()
    programs = compile_programs(problem, watchers, SIZES)
    run = watch(problem, programs, watchers, SIZES, seed=1)
    sample = np.asarray(fixed_subset(problem.data, 256).images).reshape(-1, 6)
    spectrum = np.linalg.eigvalsh(sample.T @ sample / len(sample))
    assert run["step"] == [60, 80, 100]
    np.testing.assert_allclose(run["lambda_1"], spectrum[-1], rtol=1e-4)
    np.testing.assert_allclose(run["lambda_2"], spectrum[-2], rtol=1e-4)
    assert run["quality"].keys() == {*watchers, OWN_BATCH}
    for name, values in run["quality"].items():
        # What has two samples of the gradient's direction only cannot know it better.
        assert np.mean(values) > (0.6 if name == "ritz_pairs" else 0.85), name
        assert np.max(values) < 1 + 1e-4, name
    assert run["loss"][-1] < 5


def test_each_tracker_is_measured_under_its_own_name() -> None:
    """Whatever the order of the names: a compiled step returns them sorted."""
    problem = least_squares()

    def along(axis: int) -> Watcher:
        return Watcher("", "free", 2.0, jnp.zeros_like, lambda _, v: v, lambda v: v.at[axis].set(1))

    watchers = {"second": along(1), "first": along(0)}
    sizes = SIZES._replace(steps=2, burn_in=1, every=1)
    run = watch(problem, compile_programs(problem, watchers, sizes), watchers, sizes, seed=1)
    sample = np.asarray(fixed_subset(problem.data, 256).images).reshape(-1, 6)
    for name, axis in (("first", 0), ("second", 1)):
        expected = np.mean(sample[:, axis] ** 2) / run["lambda_1"][0]
        assert run["quality"][name] == pytest.approx([expected], rel=1e-4)


@pytest.mark.slow
def test_files(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fails: Fails,
) -> None:
    some = ("oja_0.3", "p20")
    options: dict[str, Any] = {"steps": 4, "burn_in": 2, "every": 2, "batch_size": 64}
    options |= {"sample_size": 64, "num_matvecs": 2, "settings": ("mlp",), "out": tmp_path}
    options["trackers"] = some
    measure(TrackingConfig(seeds=(1,), **options))
    assert "seed 1" in capsys.readouterr().out
    file = tmp_path / "runs" / "mlp-1.json"
    before = file.read_bytes()
    # Finished runs are not run again, and what is under other options is refused.
    measure(TrackingConfig(seeds=(1,), **options))
    assert "seed 1" not in capsys.readouterr().out
    assert file.read_bytes() == before
    assert json.loads(before)["options"]["steps"] == 4
    rows = (tmp_path / "tracking.csv").read_text().splitlines()
    assert len(rows) == 1 + len(some) + 1
    # Another run lacks one of them, so that no mean of all runs has it.
    measure(TrackingConfig(seeds=(2,), **options | {"trackers": some[:1]}))
    rows = (tmp_path / "tracking.csv").read_text().splitlines()
    assert len(rows) == 1 + 1 + 1
    capsys.readouterr()
    assert (tmp_path / "tracking.png").stat().st_size > 10_000
    for seed in ("1", "2"):  # the report would average over both
        message = fails(main, ["--settings", "mlp", "--seeds", seed, "--out", str(tmp_path)])
        assert "mlp-1.json is a run of other options" in message


def test_a_damaged_run_is_named(tmp_path: Path, fails: Fails) -> None:
    file = tmp_path / "runs" / "mlp-1.json"
    file.parent.mkdir()
    record = {"setting": "mlp", "seed": 1, "options": SIZES._asdict(), "quality": {}}
    file.write_text(json.dumps(record))
    message = fails(main, ["--settings", "mlp", "--seeds", "1", "--out", str(tmp_path)])
    assert "mlp-1.json is damaged" in message


def test_pareto_front() -> None:
    points = [(2.0, 0.8), (2.0, 0.9), (2.1, 0.85), (3.0, 0.95), (4.0, 0.95)]
    assert pareto_front(points) == ([2.0, 3.0], [0.9, 0.95])


def test_more_images_than_there_are(tmp_path: Path, fails: Fails) -> None:
    options = ["--settings", "mlp", "--batch-size", "5000", "--out", str(tmp_path)]
    assert "--batch-size must be at most the 1437 training images, not 5000" in fails(main, options)


def test_wrong_options(fails: Fails) -> None:
    assert "--burn-in must be in [0, 400)" in fails(main, ["--burn-in", "400"])
    assert "--sample-size must be at least 1" in fails(main, ["--sample-size", "0"])
    assert "--num-matvecs must be at least 2" in fails(main, ["--num-matvecs", "1"])
    assert "--trackers must be among 'authors_p5'" in fails(main, ["--trackers", "oja"])


def test_products_in_evaluation_mode_are_those_of_the_running_statistics() -> None:
    """On the problem's own scale: in evaluation its Hessian is another one's, by a known factor."""
    problem = least_squares()

    def evaluated(w: jax.Array, stats: jax.Array, batch: Batch) -> jax.Array:
        return problem.loss(stats * w, batch)

    evaluation = Evaluation(jnp.ones(6), evaluated, lambda w, stats, batch: stats.at[1].set(4.0))
    problem = problem._replace(evaluation=evaluation)
    some = {name: all_watchers()[name] for name in ("authors_p5", "authors_p5_training")}
    sizes = SIZES._replace(steps=40, burn_in=20, every=10)
    run = watch(problem, compile_programs(problem, some, sizes), some, sizes, seed=1)
    # After the first step the second feature counts four times: it is the eigenvector then.
    for name, kind in (("authors_p5", "in_evaluation"), ("authors_p5_training", "")):
        there = f"quality_{kind}" if kind else "quality"
        other = "quality" if kind else "quality_in_evaluation"
        assert min(run[there][name]) > 0.95
        assert max(run[other][name]) < 0.7


def test_a_network_with_one_mode_has_no_twins() -> None:
    left_out = all_watchers().keys() - of_problem(all_watchers(), least_squares()).keys()
    assert left_out == {"authors_p5_training", "authors_p3_training"}
    modes = Evaluation(jnp.ones(6), lambda w, stats, batch: w.sum(), lambda w, stats, batch: stats)
    both = least_squares()._replace(evaluation=modes)
    assert of_problem(all_watchers(), both).keys() == all_watchers().keys()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.5], [0.1, 0.5]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.1, 0.48, 0.5, 0.52], [0.1, 0.4, 0.5, 0.6]),
        ([], []),
    ],
)
def test_labels_do_not_overlap(values: list[float], expected: list[float]) -> None:
    assert spread(values, 0.1) == pytest.approx(expected)
