"""The statistics of a report: intervals that cover, comparisons that are not too sure."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from experiments.benchmark.report.published import published
from experiments.benchmark.report.statistics import Difference, holm, paired, summarize, verdict
from experiments.benchmark.report.text import report
from experiments.benchmark.report.write import write_report
from experiments.common.errors import UserError
from experiments.training.config import Method, TrainConfig, identity
from experiments.training.resolve import resolve
from experiments.workers.store import CURVES, Line


def test_summary() -> None:
    assert summarize([1.0, 2.0, 3.0]) == (2.0, 1.0, 3)
    assert np.isnan(summarize([1.0]).deviation)


def test_pairs_are_of_equal_seeds() -> None:
    difference = paired({0: 2.0, 1: 3.0, 2: 9.0}, {1: 1.0, 0: 1.0, 7: 0.0})
    assert difference is not None
    assert (difference.mean, difference.n) == (1.5, 2)
    assert difference.low <= 1.5 <= difference.high
    assert paired({0: 1.0}, {0: 2.0}) is None
    assert paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}) == Difference(0.0, 0.0, 0.0, 1.0, 2)


def test_equal_differences_are_as_certain_as_their_signs() -> None:
    # One in two pairs has one sign by chance, whatever the sizes; 95.28 - 95.0 rounds.
    two = paired({0: 95.28, 1: 95.56}, {0: 95.0, 1: 95.28})
    assert two is not None
    assert two.p == 0.5
    ten = paired(dict.fromkeys(range(10), 96.0), dict.fromkeys(range(10), 95.0))
    assert ten is not None
    assert ten.p == pytest.approx(2 / 2**10)


def test_runs_of_other_hyperparameters_have_no_mean() -> None:
    lines: list[Line] = [
        {
            "stage": "final",
            "config": {
                "dataset": "digits",
                "model": "mlp",
                "method": "sam",
                "seed": i,
                "rho": rho,
            },
        }
        for i, rho in enumerate((0.1, 0.2))
    ]
    with pytest.raises(UserError, match="runs of sam differ in more than the seed"):
        report(lines, {})


def test_bootstrap_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        ours = dict(enumerate(rng.normal(1.0, 2.0, 20)))
        difference = paired(ours, dict.fromkeys(range(20), 0.0))
        assert difference is not None
        covered += difference.low <= 1.0 <= difference.high
    assert covered >= 86


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_verdict_needs_both_the_test_and_the_interval() -> None:
    clear = Difference(1.0, 0.5, 1.5, 0.001, 20)
    assert verdict(clear, 0.01) == "better"
    assert verdict(clear._replace(mean=-1.0, low=-1.5, high=-0.5), 0.01) == "worse"
    assert verdict(clear, 0.06) == "not significant"
    assert verdict(clear._replace(low=-0.1), 0.01) == "not significant"


def test_published_numbers() -> None:
    assert published("cifar100", "alexnet", "xsam") == "68.82 ± 0.01"
    assert published("fashion_mnist", "alexnet", "wsam") == "did not converge"
    assert published("digits", "mlp", "sam") == ""


def test_an_empty_folder_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run"):
        write_report(tmp_path)
    with pytest.raises(UserError, match=r"nowhere is no folder\.$"):
        write_report(tmp_path / "nowhere")


def finals(method: str, **last: Any) -> list[Line]:
    """Make three runs, of which the last differs in something."""
    lines: list[Line] = []
    for seed in range(3):
        result = {"test_accuracy": 90.0 + seed, "versions": {}, "steps": 10, "trace": None}
        config = TrainConfig(method=cast("Method", method), seed=seed, epochs=2)
        line: dict[str, Any] = {
            "stage": "final",
            "revision": "r",
            "cpu_seconds": 1.0,
            "config": identity(resolve(config).to_json()),
            "result": result | {"train_loss": 0.5, "test_loss": 0.5, "lambda_max": 3.0},
            "epochs": {name: [1.0, 1.0] for name in CURVES},
        }
        if seed == 2:
            for name, value in last.items():
                (line["result"] if name in line["result"] else line)[name] = value
        lines.append(line)
    return lines


def test_one_pair_has_a_difference_and_no_verdict() -> None:
    text = report([*finals("sam", test_accuracy=91.0), *finals("sgd", test_accuracy=94.5)[2:]], {})
    assert "| sgd | 94.50 | 1 | 1.00 | +3.50 | one pair |" in text
    assert "There are too few pairs of runs to compare with SAM." in text


def test_means_say_of_how_many_they_are() -> None:
    text = report([*finals("sam"), *finals("sgd", lambda_max=None, train_loss=None)], {})
    assert "| sgd | 3.000 ± 0.000 (2 of 3) | | 0.5000 ± 0.0000 (2 of 3) |" in text
    assert "| sam | 3.000 ± 0.000 | | 0.5000 ± 0.0000 |" in text


def test_runs_with_steps_left_out_are_named() -> None:
    assert "were left out" not in report(finals("sam"), {})
    diverged = finals("sgd", train_loss=None)
    text = report([*finals("sam"), *diverged, *finals("gsam", bad_steps=4)], {})
    assert "not finite were left out: sgd 1 of 3, gsam 1 of 3." in text


def test_cpu_time_is_that_of_runs_on_a_cpu() -> None:
    assert "CPU time to SAM's" in report(finals("sam"), {})
    assert "CPU time to SAM's" not in report(finals("sam", platform="gpu"), {})


def test_it_says_when_an_eigenvector_is_computed_anew() -> None:
    text = report([*finals("sam"), *finals("xsam"), *finals("xsam_p100"), *finals("xsam_oja")], {})
    ends = {
        row.split(" | ")[0]: row.split(" | ")[-1].strip(" |")
        for row in text.partition("### Hyperparameters")[2].splitlines()
        if row.startswith("|")
    }
    assert ends["| xsam"] == "p = 5, q = 5, warm, training mode"  # an MLP has one mode
    assert ends["| xsam_p100"] == "p = 100, q = 5, cold, training mode"
    assert ends["| sam"] == ends["| xsam_oja"] == ""
