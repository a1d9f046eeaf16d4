"""What is said of the benchmarks on Fashion-MNIST, computed from the committed runs."""

import itertools
import re
from statistics import mean

import pytest

from experiments.benchmark.presets import PRESETS
from experiments.benchmark.report.statistics import LEVEL
from tests.documents.benchmarks import (
    FORMS,
    VERDICTS,
    better,
    by_seed,
    compare,
    halves,
    means,
    of,
    on,
    report,
    verdicts,
)
from tests.documents.text import BENCHMARKS, RESULTS, ends, lines, runs, says


def test_fashion_small_on_resnet8() -> None:
    (images,) = {run["train_images"] for run in runs("fashion_small")}
    says(BENCHMARKS, "does the same for ten methods on # images of Fashion-MNIST", images)
    finals = on("resnet8", "fashion_small")
    found = of(finals, "test_accuracy")
    assert {len(accuracies) for accuracies in found.values()} == {len(found)} == {10}
    accuracy = means(found)
    says(
        BENCHMARKS,
        "# to # points above SAM, two of the four significantly in this table,",
        *ends(accuracy[method] - accuracy["sam"] for method in FORMS),
    )
    assert better("fashion_small", 0) == {"xsam_projector", "xsam_oja"}
    others = accuracy.keys() - set(FORMS)
    gaps, p = compare(by_seed(finals), itertools.product(FORMS, others))
    says(BENCHMARKS, "and # to # above every method of the other group", *ends(gaps))
    says(
        BENCHMARKS,
        "# of these # comparisons significantly",
        sum(each < LEVEL for each in p),
        len(p),
    )
    pairs = [*itertools.combinations(accuracy, 2)]
    _, p = compare(by_seed(finals), pairs)
    across = [len({*pair} & {*FORMS}) == 1 for pair in pairs]
    says(
        BENCHMARKS,
        "over all # pairs of methods it is #)",
        len(pairs),
        sum(each < LEVEL and other for each, other in zip(p, across, strict=True)),
    )
    gaps = [abs(accuracy[method] - accuracy["normalized_sam"]) for method in FORMS]
    says(BENCHMARKS, "the three forms lie within # points of normalised SAM", max(gaps))
    curvature = means(of(finals, "lambda_max"))
    says(
        BENCHMARKS,
        "They end with a largest eigenvalue of # to #, where SAM has # and SGD #:",
        *ends(curvature[method] for method in FORMS),
        curvature["sam"],
        curvature["sgd"],
    )
    says(BENCHMARKS, "But WSAM has # and GSAM #,", curvature["wsam"], curvature["gsam"])
    assert max(accuracy["wsam"], accuracy["gsam"]) < accuracy["sam"]
    rates = {run["method"]: run["learning_rate"] for run in finals}
    assert all(round(rates[method] / rates["sam"]) == 2 for method in FORMS)


def test_twenty_seeds_on_resnet8() -> None:
    accuracy = means(of(on("resnet8", "fashion_small_again"), "test_accuracy"))
    gains = ends(accuracy[method] - accuracy["sam"] for method in FORMS)
    says(BENCHMARKS, "all four are significantly above SAM, by # to # points. Over the 20", *gains)
    assert better("fashion_small_again", 0) == {*FORMS}

    both = on("resnet8", "fashion_small", "fashion_small_again")
    found = by_seed(both)
    assert {len(accuracies) for accuracies in found.values()} == {20}
    accuracy = means({method: [*accuracies.values()] for method, accuracies in found.items()})
    gain = {method: accuracy[method] - accuracy["sam"] for method in FORMS}
    says(
        BENCHMARKS,
        "Over the # seeds of both the four are # to # points above SAM",
        20,
        *ends(gain.values()),
    )
    others = accuracy.keys() - set(FORMS)
    gaps, _ = compare(found, itertools.product(FORMS, others))
    says(
        BENCHMARKS,
        "and # to # above each method of the other group, all # comp",
        *ends(gaps),
        len(gaps),
    )
    pairs = [*itertools.combinations(accuracy, 2)]
    _, p = compare(found, pairs)
    says(BENCHMARKS, "(Holm-corrected over all # pairs of methods), and no two", len(pairs))
    for pair, each in zip(pairs, p, strict=True):
        assert (each < LEVEL) == (len({*pair} & {*FORMS}) == 1), pair
    low, high = ends(accuracy[method] for method in FORMS)
    says(BENCHMARKS, "the means of the four lie within # points", high - low)


def test_no_choice_lies_at_the_edge_of_the_search() -> None:
    says(BENCHMARKS, "Now none of this table lies at an edge.")
    for file in RESULTS.glob("*/report.md"):
        assert ("tried)" in file.read_text()) == (file.parent.name == "cheap"), file
    says(BENCHMARKS, "`xsam_sparse` chose the largest radius that was tried.")
    (line,) = re.findall(r".*tried\).*", (RESULTS / "cheap" / "report.md").read_text())
    assert line.startswith("| xsam_sparse |")


def test_fashion_small_on_a_cnn() -> None:
    cnn = of(on("small_cnn", "fashion_small"), "test_accuracy")
    assert {len(accuracies) for accuracies in cnn.values()} == {10}
    says(BENCHMARKS, "its means are # to #%, but single", *ends(means(cnn).values()))
    falls = {method: max(found) - min(found) for method, found in cnn.items()}
    assert sum(fall >= 10 for fall in falls.values()) > len(cnn) / 2
    says(BENCHMARKS, "one each of Eigen-SAM, F-SAM, X-SAM and normalised SAM died at 10%.")
    deaths = {method: sum(accuracy < 11 for accuracy in found) for method, found in cnn.items()}
    assert {method: dead for method, dead in deaths.items() if dead} == {
        "eigen_sam": 1,
        "friendly_sam": 1,
        "normalized_sam": 1,
        "xsam_p100": 1,
    }
    says(BENCHMARKS, "On a small CNN nothing is significant in the first ten seeds.")
    assert better("fashion_small", 1) == set()

    accuracy = means(of(on("small_cnn", "fashion_small_again"), "test_accuracy"))
    says(
        BENCHMARKS,
        "the four that normalise end at # to #% and are significantly above SAM, by # to # points",
        *ends(accuracy[method] for method in FORMS),
        *ends(accuracy[method] - accuracy["sam"] for method in FORMS),
    )
    assert better("fashion_small_again", 1) == {*FORMS}
    both = by_seed(on("small_cnn", "fashion_small", "fashion_small_again"))
    says(BENCHMARKS, "over all # nothing is significant", len(both["sam"]))
    _, p = compare(both, itertools.combinations(both, 2))
    assert min(p) > LEVEL
    least = {method: min(accuracies.values()) for method, accuracies in both.items()}
    steady = sorted((method for method in both if least[method] > 69), reverse=True)
    assert steady == ["xsam_projector", "xsam_oja"]
    says(
        BENCHMARKS,
        "the ten methods of which no run of # fell below 69%: they end at # and #%.",
        len(both["sam"]),
        *(mean(both[method].values()) for method in steady),
    )


@pytest.mark.parametrize("name", ["fashion_small", "fashion_small_again"])
def test_what_the_eigenvector_adds_on_fashion_mnist(name: str) -> None:
    _, added = halves(name)
    verdicts = re.findall(r"\| ([a-z ]+) \|$", added, re.MULTILINE)
    assert [verdict for verdict in verdicts if verdict in VERDICTS] == ["not significant"] * 6


def test_cheap_on_fashion_mnist() -> None:
    accuracies = of(runs("cheap_fashion"), "test_accuracy")
    accuracy = means(accuracies)
    cheap = ("xsam_late", "xsam_sparse", "xsam_part")
    says(
        BENCHMARKS,
        "the same recipes end at #, # and #% in ten seeds, none of them below #",
        *(accuracy[method] for method in cheap),
        min(least for method in cheap for least in accuracies[method]),
    )
    *others, dead = sorted(accuracies["xsam_p100"], reverse=True)
    assert len(others) == 9
    says(BENCHMARKS, "which dies at #%, and has #% in the other nine", dead, mean(others))
    *others, fallen = sorted(accuracies["sam"], reverse=True)
    says(
        BENCHMARKS,
        "SAM has #%, and #% without the run that fell to #%;",
        accuracy["sam"],
        mean(others),
        fallen,
    )
    *others, _ = sorted(accuracies["sgd"], reverse=True)
    says(BENCHMARKS, "; SGD has #% without its worst.", mean(others))
    says(
        BENCHMARKS,
        "Normalised SGD ends at #% for one gradient a step.",
        accuracy["normalized_sgd"],
    )
    sharpness = means(of(runs("cheap_fashion"), "lambda_max"))
    says(
        BENCHMARKS,
        "normalised SGD, which has none, ends at #, SAM at #.",
        *(sharpness[method] for method in ("normalized_sgd", "sam")),
    )
    assert {report("cheap_fashion")[m][4] for m in accuracy if m != "sam"} == {"not significant"}


def test_fashion_on_a_gpu() -> None:
    found = runs("fashion_gpu")
    accuracy = of(found, "test_accuracy")
    settings = PRESETS["fashion"]
    says(
        BENCHMARKS,
        "with the paper's hyperparameters but # of its # epochs;",
        settings.settings["epochs"],
        200,
    )
    revisions = [line["revision"] for line in lines("fashion_gpu")]
    first, second, third = (revisions.count(name) for name in dict.fromkeys(revisions))
    assert len(found) == len(accuracy) * len(settings.seeds)
    says(BENCHMARKS, "# of its # runs with the first, all of", first, len(found))
    says(BENCHMARKS, "same gap; # with the second, and with the third the last three of", second)
    assert third == 3
    assert {run["method"] for run in found[-third:]} == {"xsam_late"}
    earlier = [run for run, made in zip(found, revisions, strict=True) if made == revisions[0]]
    seeds = {method: len(numbers) for method, numbers in of(earlier, "seed").items()}
    assert (seeds["sgd"], seeds["sam"]) == (5, 5)
    early = means(of(earlier, "test_accuracy"))
    both = {run["seed"] for run in earlier if run["method"] == "xsam_p100"}
    sam = mean(by_seed(earlier)["sam"][seed] for seed in both)
    for method in FORMS:
        assert seeds[method] == len(both) == 2
        assert 0.5 < early[method] - sam < 1.2
    assert {len(values) for values in accuracy.values()} == {len(settings.seeds)}

    xsam = ("xsam_p100", "xsam_projector", "xsam_oja")
    gains = {method: mean(accuracy[method]) - mean(accuracy["sam"]) for method in accuracy}
    sharpness = {
        method: mean(value for value in values if value is not None)
        for method, values in of(found, "lambda_max").items()
    }
    forms = ends(gains[method] for method in xsam)
    says(BENCHMARKS, "in its three forms is # to # points above SAM, two of the three", *forms)
    says(
        BENCHMARKS,
        "largest eigenvalue of # to # where SAM ends at #, as the paper",
        *ends(sharpness[method] for method in xsam),
        sharpness["sam"],
    )
    control = "normalized_sam"
    says(BENCHMARKS, "an eigenvector: # points and #.", gains[control], sharpness[control])
    assert all(0.6 < sharpness[m] / sharpness["sam"] < 0.7 for m in (*xsam, control))
    apart = max(abs(gains[method] - gains[control]) for method in xsam)
    says(BENCHMARKS, "No form of X-SAM differs from it by more than # points", apart)
    late, scheduled = (by_seed(found)[method] for method in ("xsam_late", "xsam_p100"))
    above = [late[seed] - scheduled[seed] for seed in settings.seeds]
    ahead, furthest = mean(above), max(map(abs, above))
    says(BENCHMARKS, "ends # points above it on average, within # points in", ahead, furthest)
    says(BENCHMARKS, "though with a largest eigenvalue of #.", sharpness["xsam_late"])
    judged = [verdict for method in xsam for verdict in verdicts("fashion_gpu")[method]]
    assert sorted(judged) == ["better", "better", "not significant"]
    _, added = halves("fashion_gpu")
    assert added.count("| not significant |") == len(xsam)
    dead = {method: [value < 11 for value in values] for method, values in accuracy.items()}
    says(BENCHMARKS, "three of five runs of SGD and two of five of Eigen-SAM died at 10%.")
    assert (sum(dead["sgd"]), len(dead["sgd"])) == (3, 5)
    assert (sum(dead["eigen_sam"]), len(dead["eigen_sam"])) == (2, 5)
    assert sum(map(sum, dead.values())) == 5
