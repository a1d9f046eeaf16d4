"""The study of learning rates: its plan, its tables, and that it goes on where it was."""

from pathlib import Path
from typing import Any

import pytest

from experiments.rates import __main__ as program
from experiments.rates.plan import RATES, Curve, RatesConfig, curves, runs_of
from experiments.rates.report import accuracies, best, table
from experiments.training.resolve import resolve
from experiments.workers import store
from experiments.workers.store import Line

CONFIG = RatesConfig(tasks=("digits",), methods=("sam", "xsam"), seeds=(0, 1))


def lines(config: RatesConfig, at: dict[str, float]) -> list[Line]:
    """Make every run of a study; each method has another best rate."""
    return [
        {
            "key": run.key,
            "result": {"test_accuracy": (90 if rate == at[curve.method] else 80) + 2 * seed},
        }
        for curve in curves(config)
        for rate in RATES[curve.optimizer]
        for seed, run in enumerate(runs_of(config, curve, rate))
    ]


def test_every_method_is_tried_at_the_same_rates() -> None:
    plan = [
        run
        for c in curves(CONFIG)
        for rate in RATES[c.optimizer]
        for run in runs_of(CONFIG, c, rate)
    ]
    assert len({run.key for run in plan}) == len(plan) == 2 * 2 * 3 * 8 * 2
    for run in plan:
        config = resolve(run.config)
        assert config.validation_images is not None, "the test images choose nothing"
        assert config.learning_rate in RATES[config.optimizer]
        assert (config.rho, config.alpha, config.curvature_every) == (0.05, 0.2, 0)


def test_table_has_the_best_rate_and_its_ratio_to_sam_s() -> None:
    config = RatesConfig(
        tasks=("digits",), methods=("sam", "xsam"), seeds=(0, 1), optimizers=("sgd",)
    )
    found = accuracies(config, lines(config, {"sam": 0.04, "xsam": 0.64}))
    best_of_sam = found[Curve("digits", "sgd", "cosine", "sam")][0.04]
    assert best_of_sam == pytest.approx((91.0, 1.0))
    text = table(config, found)
    assert "| digits | sgd | cosine | sam | 0.04 | 1 | 91.00 ± 1.00 |" in text
    assert "| digits | sgd | linear | xsam | 0.64 (highest tried) | 16 | 91.00 ± 1.00 |" in text


def test_a_rate_counts_when_all_its_seeds_are_finished() -> None:
    some = lines(CONFIG, {"sam": 0.04, "xsam": 0.04})
    found = accuracies(CONFIG, some[1:])
    first = curves(CONFIG)[0]
    assert [*found[first]] == [*RATES[first.optimizer][1:]]
    assert best({0.2: (90.0, 0.0), 0.1: (90.0, 0.0), 0.4: (89.0, 0.0)}) == 0.1


def test_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RatesConfig(
        tasks=("digits",),
        methods=("sam",),
        seeds=(0,),
        optimizers=("sgd",),
        schedules=("cosine",),
        out=tmp_path,
    )
    counts: list[int] = []

    def execute(plan: list[Any], jobs: int, on_run: Any) -> None:
        counts.append(len(plan))
        for run in plan[:3]:
            numbers = dict.fromkeys(("train_loss", "test_loss", "lambda_max", "trace"))
            result: dict[str, Any] = {"test_accuracy": 90.0, "versions": {}, "steps": 1, **numbers}
            on_run(run, {"result": result, "cpu_seconds": 1.0})
        for run in plan[3:4]:
            on_run(run, {"error": "no memory"})

    monkeypatch.setattr(program, "execute", execute)
    assert program.measure(config, 1) == ["sam, mlp on digits, seed 0 (tuning): no memory"]
    program.measure(config, 1)
    assert counts == [8, 5]
    assert len(store.read(tmp_path)) == 6
    assert (tmp_path / "rates.csv").read_text().count("\n") == 1 + 6
    assert (tmp_path / "rates.png").stat().st_size > 10_000
