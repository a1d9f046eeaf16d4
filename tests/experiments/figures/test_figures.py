"""Figures of tiny runs: their numbers against independent ones, finished runs, wrong options."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.drawing import write_table
from experiments.data.dataset import first_of_every_class
from experiments.data.sources import load
from experiments.figures import runs
from experiments.figures.__main__ import main, make
from experiments.figures.alpha import Alpha, config_at
from experiments.figures.curves import Curves
from experiments.figures.options import train_config
from experiments.figures.runs import folder, read_weights, run_once
from experiments.figures.spectrum import Spectrum
from experiments.models.network import Batch, build_network, loss_and_outcome
from experiments.training.config import TrainConfig
from experiments.training.measure import fixed_subset
from experiments.training.resolve import resolve
from experiments.training.run import Run
from tests.experiments.figures.small_figures import refuse, table, tiny
from xsam_jax import curvature


def test_first_of_every_class() -> None:
    data = load("digits")
    small, large = (first_of_every_class(data, size, 50) for size in (57, 200))
    assert sorted(np.bincount(small.train_labels)) == [5] * 3 + [6] * 7
    assert set(np.bincount(small.test_labels)) == {5}
    contained = {image.tobytes() for image in large.train_images}
    assert {image.tobytes() for image in small.train_images} <= contained
    whole = first_of_every_class(data)
    assert np.array_equal(whole.train_images, data.train_images)


def test_curves_and_spectrum_share_their_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: dict[str, Any] = {
        **tiny(tmp_path),
        "methods": ("sam",),
        "curvature_samples": 30,
        "num_matvecs": 3,
    }
    make(Curves(**shared))
    lines = table(tmp_path / "out" / "curves.csv")
    assert [(line["method"], line["epoch"]) for line in lines] == [("sam", "1")]

    monkeypatch.setattr(runs, "train", refuse)
    make(Spectrum(**shared, k=2, spectrum_matvecs=8, num_probes=1))
    values = table(tmp_path / "out" / "spectrum.csv")
    assert [line["index"] for line in values] == ["1", "2"]
    density = table(tmp_path / "out" / "spectrum_density.csv")
    grid, heights = (np.array([float(d[k]) for d in density]) for k in ("eigenvalue", "density"))
    assert np.trapezoid(heights, grid) == pytest.approx(1, abs=0.05)

    # The same numbers from the weights, with one batch instead of batches one after the other.
    config = train_config(Curves(**shared), method="sam", curvature_samples=30, num_matvecs=3)
    out = folder(config, tmp_path / "runs", ["weights.npz"])
    recorded = json.loads((out / "metrics.jsonl").read_text())
    assert float(lines[0]["lambda_max"]) == pytest.approx(recorded["lambda_max"], rel=1e-5)
    assert float(lines[0]["test_loss"]) == pytest.approx(recorded["test_loss"], rel=1e-5)
    data = first_of_every_class(load("digits"), 60, 50)
    network = build_network("mlp", data, jax.random.key(5))
    params, stats = read_weights(out / "weights.npz", network)
    everything = Batch(jnp.asarray(data.train_images), jnp.asarray(data.train_labels))
    batch = jax.tree.map(lambda leaf: leaf[0], fixed_subset(everything, 30))
    grad_fn = jax.grad(lambda p: loss_and_outcome(network.predict, p, stats, batch)[0])
    pairs = jax.jit(
        lambda p: curvature.top_eigenpairs(grad_fn, p, 2, num_matvecs=8, key=jax.random.key(0))
    )(params)
    found = [float(line["eigenvalue"]) for line in values]
    np.testing.assert_allclose(found, pairs.values, rtol=1e-3)


def test_alpha_has_one_row_of_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Alpha(**{**tiny(tmp_path), "alphas": (0.5, 0.0), "seeds": (0, 1)})
    trained: list[TrainConfig] = []

    def fake(config: TrainConfig, **_: Any) -> Any:
        trained.append(config)
        assert config.out is not None
        config.out.mkdir(parents=True)
        fields = dict.fromkeys(runs.Result._fields, 0) | {
            "test_accuracy": len(trained),
            "seed": config.seed,
        }
        (config.out / "result.json").write_text(json.dumps(fields))
        (config.out / "metrics.jsonl").write_text("")
        return Run(runs.Result(**fields), [], cast(Any, None))

    monkeypatch.setattr(runs, "train", fake)
    make(options)
    lines = table(options.out / "alpha.csv")
    methods = {(c.method, c.seed): c for c in trained}
    assert len(trained) == len(methods) == 8, "alpha 0 is one run for both readings"
    assert [line["method"] for line in lines] == ["sam"] * 2 + ["xsam"] * 4 + ["xsam_projector"] * 4
    assert all(config.alpha == 0.5 for (name, _), config in methods.items() if "xsam" in name)
    for line in lines[2:]:
        correction: Any = line["method"]
        config = config_at(options, correction, float(line["alpha"]), int(line["seed"]))
        run = run_once(config, options.runs)
        assert run.result.test_accuracy == float(line["test_accuracy"])
    assert len(trained) == 8


def test_a_folder_has_one_run_only(tmp_path: Path) -> None:
    base = TrainConfig(method="sam")
    changed = [replace(base, **change) for change in ({"seed": 1}, {"rho": 0.1}, {"epochs": 2})]
    assert len({folder(config, tmp_path) for config in (base, *changed)}) == 4
    told = replace(base, rho=resolve(base).rho, data_dir=Path("elsewhere"), out=Path("a"))
    assert folder(told, tmp_path) == folder(base, tmp_path)
    assert folder(base, tmp_path, ["weights.npz"]) != folder(base, tmp_path)


def test_cells(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ("a", "b"), [(1, 1 / 3), (None, float("nan"))])
    assert (tmp_path / "t.csv").read_text() == "a,b\n1,0.333333\n,\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["angle", "--every", "0"], "--every must be at least 1"),
        (["angle", "--seeds", "1", "1"], "--seeds must be one or more different values"),
        (["angle", "--train-images", "0"], "--train-images must be at least 1"),
        (["angle", "--train-images", "9999"], "--train-images must be at most the 1437"),
        (["curves", "--methods", "sam", "sam"], "--methods must be one or more different values"),
        (["spectrum", "--k", "9", "--spectrum-matvecs", "8"], "--k must be at most"),
        (["alpha", "--alphas", "3"], "--alphas must be in [0, 2], not 3."),
        (["alpha", "--dataset", "fashion_mnist", "--data-dir", "."], "apt-get install"),
        (["curves", "--out", "/dev/null/figures"], "cannot be written: /dev/null is no folder"),
    ],
)
def test_wrong_options(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: Callable[[Callable[[], None], list[str]], str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in fails(main, arguments)
    assert not any(tmp_path.iterdir())


def test_out_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Exception, match="cannot be written"):
        write_table(tmp_path / "file" / "t.csv", ("a",), [])
