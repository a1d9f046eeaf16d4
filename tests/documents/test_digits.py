"""What is said of the benchmarks on digits, computed from the committed runs."""

import itertools
import re
from statistics import mean

import pytest

from experiments.benchmark.presets.noisy import NOISY
from experiments.benchmark.report.statistics import LEVEL
from tests.documents.benchmarks import (
    FORMS,
    NORMALIZED,
    ON_DIGITS,
    by_seed,
    compare,
    halves,
    means,
    of,
    on,
    report,
)
from tests.documents.text import BENCHMARKS, ends, lines, runs, says


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("digits", "# runs of an MLP on # digits in # minutes of CPU time"),
        ("fashion_small", "trials of two, in # minutes of CPU time"),
        ("cheap", "[results/cheap](../results/cheap/report.md), # minutes of CPU time)"),
    ],
)
def test_benchmarks_size(name: str, sentence: str) -> None:
    found = lines(name)
    minutes = sum(line["cpu_seconds"] for line in found) / 60
    (images,) = {line["config"]["train_images"] for line in found}
    says(BENCHMARKS, sentence, *(len(found), images)[: sentence.count("#") - 1], minutes)


def test_digits() -> None:
    others = by_seed(runs("digits")).keys() - set(ON_DIGITS)
    for name, text, sentence in (
        ("digits", BENCHMARKS, "ends at # to #%, every other method at # to #%"),
        ("digits_again", BENCHMARKS, "it is # to #% and # to #%. Over"),
    ):
        accuracy = means(of(runs(name), "test_accuracy"))
        groups = ([accuracy[method] for method in group] for group in (ON_DIGITS, others))
        says(text, sentence, *(end for group in groups for end in ends(group)))
    (seeds,) = {len(accuracies) for accuracies in by_seed(runs("digits")).values()}
    says(BENCHMARKS, "and the final runs are those of # seeds", seeds)
    tuning = runs("digits", "tuning")
    (images,) = {run["validation_images"] for run in tuning}
    says(BENCHMARKS, "on # training images that no run trains on", images)
    assert len({run["seed"] for run in tuning}) == 8


def test_forty_seeds_on_digits() -> None:
    accuracy = by_seed([*runs("digits"), *runs("digits_again")])
    (seeds,) = {len(accuracies) for accuracies in accuracy.values()}
    says(BENCHMARKS, "Over the # seeds of both, each", seeds)
    says(BENCHMARKS, "nothing that # seeds can see", seeds)

    gains, _ = compare(accuracy, ((method, "sam") for method in ON_DIGITS))
    says(BENCHMARKS, "each of the eight is # to # points above SAM", *ends(gains))
    gains, p = compare(accuracy, itertools.product(ON_DIGITS, accuracy.keys() - set(ON_DIGITS)))
    assert min(gains) > 0
    assert max(p) < LEVEL
    _, p = compare(accuracy, itertools.combinations(ON_DIGITS, 2))
    assert len(p) == 28
    assert min(p) > LEVEL
    mean_of = means({method: [*found.values()] for method, found in accuracy.items()})
    says(
        BENCHMARKS,
        "# points above normalised SAM, which has no eigenvector and takes 2.00, and # below a",
        mean_of["xsam"] - mean_of["normalized_sam"],
        mean_of["xsam_random"] - mean_of["xsam"],
    )


@pytest.mark.parametrize(
    ("network", "names"),
    [("resnet8", ("fashion_small", "fashion_small_again")), ("simple_cnn", ("fashion_gpu",))],
)
def test_the_control_gains_as_much(network: str, names: tuple[str, ...]) -> None:
    """As README says of the other tasks."""
    accuracy = means(of(on(network, *names), "test_accuracy"))
    forms = [accuracy[method] for method in FORMS if method != "normalized_sam"]
    assert min(forms) > accuracy["sam"]
    assert accuracy["normalized_sam"] == pytest.approx(mean(forms), abs=0.05)


def test_wrong_labels() -> None:
    finals = runs("noisy")
    (noise,) = {run["label_noise"] for run in finals}
    (images,) = {run["train_images"] for run in finals}
    says(BENCHMARKS, "`noisy` gives #% of the # training images a wrong", 100 * noise, images)
    found = lines("noisy")
    minutes = sum(line["cpu_seconds"] for line in found) / 60
    tuning = NOISY.tuning
    assert tuning is not None
    assert len(tuning.seeds) == 6
    trials = tuning.trials
    says(
        BENCHMARKS,
        "# runs, # trials of six seeds for each method, in # minutes",
        len(found),
        trials,
        minutes,
    )


def test_forty_seeds_with_wrong_labels() -> None:
    both = [*runs("noisy"), *runs("noisy_again")]
    accuracy = by_seed(both)
    (seeds,) = {len(accuracies) for accuracies in accuracy.values()}
    says(BENCHMARKS, "Over the # seeds of this table and of another search", seeds)
    right = by_seed([*runs("digits"), *runs("digits_again")])
    (sam,), _ = compare(accuracy, [("sam", "sgd")])
    (before,), _ = compare(right, [("sam", "sgd")])
    says(BENCHMARKS, "SAM is # points above SGD, where on right labels it is #, and", sam, before)

    pairs = [*itertools.combinations(accuracy, 2)]
    gaps, p = compare(accuracy, pairs)
    found = {pair: (gap, each) for pair, gap, each in zip(pairs, gaps, p, strict=True)}
    perturbed = accuracy.keys() - {"sgd", "gsam", "xsam_oja"}
    above = [-found["sgd", method][0] for method in perturbed]
    says(BENCHMARKS, "is # to # points above SGD, significantly", *ends(above))
    says(BENCHMARKS, "(Holm-corrected over all # pairs), but for two", len(pairs))
    assert {m for m in accuracy.keys() - {"sgd"} if found["sgd", m][1] < LEVEL} == perturbed
    assert sum(found < 11 for found in accuracy["gsam"].values()) == 4
    fallen, *rest = sorted(accuracy["xsam_oja"].values())
    says(BENCHMARKS, "and of X-SAM with Oja's rule one fell to #%.", fallen)
    assert min(rest) > 91
    curvature = means(of([run for run in both if run["lambda_max"] is not None], "lambda_max"))
    says(
        BENCHMARKS,
        "SGD ends with a largest eigenvalue of #, all others at # to #.",
        curvature.pop("sgd"),
        *ends(curvature.values()),
    )

    compared = [(method, "sam") for method in accuracy if method != "sam"]
    gains, p = compare(accuracy, compared)
    better = {
        method: gain
        for (method, _), gain, each in zip(compared, gains, p, strict=True)
        if each < LEVEL and gain > 0
    }
    assert better.keys() == {"normalized_sam", "xsam_projector", "xsam_lanczos"}
    gain = [better[name] for name in ("normalized_sam", "xsam_projector", "xsam_lanczos")]
    says(BENCHMARKS, "own eigenvector are #, # and # points above SAM, significantly", *gain)
    assert all(found[pair][1] > LEVEL for pair in pairs if {*pair} <= {*NORMALIZED})
    mean_of = means({method: [*values.values()] for method, values in accuracy.items()})
    assert max(mean_of, key=lambda method: mean_of[method]) == "normalized_sam"


@pytest.mark.parametrize("name", ["digits", "digits_again"])
def test_what_the_eigenvector_adds(name: str) -> None:
    _, added = halves(name)
    found = re.findall(r"^\| (\w+) \| ([-+][\d.]+) \[.*\| ([a-z ]+) \|$", added, re.MULTILINE)
    accuracy = means(of(runs(name), "test_accuracy"))
    assert found == [
        (method, f"{accuracy[method] - accuracy['normalized_sam']:+.2f}", "not significant")
        for method in ON_DIGITS
        if method != "normalized_sam"
    ]


def test_cheap() -> None:
    accuracy, verdicts = means(of(runs("cheap"), "test_accuracy")), report("cheap")
    cheap = ("xsam_late", "xsam_sparse", "xsam_part")
    costs = {method: float(verdicts[method][2]) for method in (*cheap, "xsam")}
    (run,) = [r for r in runs("cheap") if (r["method"], r["seed"]) == ("xsam_late", 0)]
    late = 100 * (1 - run["late_start"])
    says(
        BENCHMARKS,
        "Oja's rule in the last #% of the steps, normalised SGD before: # gradients a step",
        late,
        costs["xsam_late"],
    )
    assert (run["sparse_every"], run["ascent_part"]) == (3, 0.25)
    says(BENCHMARKS, "(the same in every third step: #)", costs["xsam_sparse"])
    says(
        BENCHMARKS,
        "from a quarter of the batch: #) all end within the interval of `xsam` (#) or above",
        costs["xsam_part"],
        costs["xsam"],
    )
    low = float(re.findall(r"[-+][\d.]+", verdicts["xsam"][3])[1])
    assert all(low <= accuracy[method] - accuracy["sam"] for method in cheap)
    says(BENCHMARKS, "the last two significantly above SAM; `xsam_sparse`")
    assert [verdicts[method][4] for method in cheap] == ["not significant", "better", "better"]
    gain, half = (accuracy[method] - accuracy["sgd"] for method in ("xsam", "normalized_sgd"))
    says(BENCHMARKS, "Of X-SAM's gain over SGD half comes from normalising SGD's gradient")
    says(BENCHMARKS, "at the price of SGD (# of # points, in these", half, gain)
    assert half / gain == pytest.approx(0.5, abs=0.05)
    says(BENCHMARKS, "Rows that both tables have are the same runs")
    here, before = (of(runs(name), "test_accuracy") for name in ("cheap", "digits"))
    assert here.keys() & before.keys() == {"sgd", "sam", "xsam", "xsam_p100", "xsam_oja"}
    assert all(here[method] == before[method] for method in here.keys() & before.keys())
