"""What a benchmark plans: presets, equal tuning, the choice of hyperparameters."""

import json
from dataclasses import replace

import pytest

from experiments.benchmark.__main__ import (
    BenchmarkConfig,
    protocol_of,
)
from experiments.benchmark.presets import PRESETS
from experiments.benchmark.protocol import (
    Protocol,
    Tuning,
    cells,
    choose,
    final_runs,
    points,
    tuning_runs,
)
from experiments.training.resolve import resolve
from experiments.workers.worker import encode
from tests.experiments.benchmark.tiny import SAM, TINY, finished, line


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_presets_give_every_method_the_same_number_of_trials(preset: Protocol) -> None:
    counts = {len(tuning_runs(preset, cell)) for cell in cells(preset)}
    assert len(counts) == 1
    for cell in cells(preset):
        trials = tuning_runs(preset, cell)
        for run in trials:
            assert resolve(run.config).validation_images is not None
        assert len({run.key for run in trials}) == len(trials)


def test_paper_preset_is_section_6_1() -> None:
    paper = PRESETS["paper"]
    assert paper.tuning is None
    for cell in cells(paper):
        runs = final_runs(paper, cell, [])
        assert [run.config.seed for run in runs] == [0, 1, 2]
        config = resolve(runs[0].config)
        assert (config.epochs, config.batch_size, config.learning_rate) == (200, 256, 0.1)
        assert (config.momentum, config.weight_decay, config.alpha) == (0.9, 5e-5, 0.2)
        if cell.dataset != "cifar100":
            assert config.rho == (2 if cell.method == "wsam" else 0.05)


def test_points_fill_their_ranges() -> None:
    tuning = Tuning(
        trials=32, seeds=(0,), learning_rate=(0.01, 1), rho=(0.1, 10), validation_images=1
    )
    rates, radii = zip(*points(tuning), strict=True)
    for values, low, middle, high in ((rates, 0.01, 0.1, 1), (radii, 0.1, 1, 10)):
        assert all(low <= value <= high for value in values)
        # Logarithmic: as many below the geometric mean as above.
        assert 12 <= sum(value < middle for value in values) <= 20


def test_trials_may_be_short_and_keep_each_methods_radius() -> None:
    """cifar-tuned: the same learning rates for all, at a fifth of the length, nothing else."""
    tuned, plain = PRESETS["cifar-tuned"], PRESETS["cifar"]
    tuning = tuned.tuning
    assert tuning is not None
    for cell in cells(tuned):
        trials, (final, *_) = tuning_runs(tuned, cell), final_runs(plain, cell, [])
        rates = {run.config.learning_rate for run in trials}
        assert rates == {rate for rate, _ in points(tuning)}
        for run in trials:
            trial, counts = resolve(run.config), resolve(final.config)
            assert 5 * trial.epochs == counts.epochs
            assert (trial.rho, trial.validation_images) == (counts.rho, 5000)
        lines = [finished(run, 50 + i) for i, run in enumerate(trials)]
        chosen = final_runs(tuned, cell, lines)[0].config
        assert chosen.learning_rate == trials[-1].config.learning_rate
        assert resolve(chosen).epochs == resolve(final.config).epochs


def test_choice_is_by_mean_accuracy_then_by_loss() -> None:
    a, b = {"learning_rate": 0.1, "rho": 0.05}, {"learning_rate": 0.2, "rho": 0.05}
    lines = [line(90, 0.5, **a), line(92, 0.5, **a), line(96, 0.1, **b), line(80, 9.0, **b)]
    assert choose(lines) == a
    assert choose([line(90, 0.5, **a), line(90, 0.4, **b)]) == b
    assert choose([line(90, None, **a), line(90, 4.0, **b)]) == b, "a loss of NaN is worst"


def test_trials_of_another_protocol_choose_nothing() -> None:
    """What is in the folder already counts only if it is of the plan."""
    ours, others = TINY, replace(TINY, settings={**TINY.settings, "epochs": 1})
    runs, strange = (tuning_runs(protocol, SAM) for protocol in (ours, others))
    lines = [finished(runs[0], 90), finished(runs[1], 80), finished(strange[1], 100)]
    for run in final_runs(ours, SAM, lines):
        assert run.config.learning_rate == runs[0].config.learning_rate
    assert final_runs(ours, SAM, lines[1:]) == [], "a trial that failed is still to be made"


def test_options_change_the_preset() -> None:
    protocol = protocol_of(BenchmarkConfig(preset="digits", methods=("sam",), seeds=(5,)))
    assert cells(protocol) == [SAM]
    assert protocol.seeds == (5,)
    assert protocol.tuning == PRESETS["digits"].tuning
    more = protocol_of(BenchmarkConfig(preset="digits", tuning_seeds=(91, 92)))
    assert {run.config.seed for run in tuning_runs(more, SAM)} == {91, 92}
    assert json.loads(encode(tuning_runs(protocol, SAM)[0].config))["epochs"] == 40
