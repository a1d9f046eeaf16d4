"""What is said of the benchmarks on Fashion-MNIST, computed from the committed runs."""

import itertools
import re
from statistics import mean

from experiments.benchmark.presets import PRESETS
from experiments.report.statistics import LEVEL
from tests.documents.benchmarks import (
    FORMS,
    VERDICTS,
    by_seed,
    compare,
    halves,
    means,
    of,
    report,
    verdicts,
)
from tests.documents.text import BENCHMARKS, README, RESULTS, ends, runs, says


def test_fashion_small_on_resnet8() -> None:
    (images,) = {run["train_images"] for run in runs("fashion_small")}
    says(BENCHMARKS, "does the same for ten methods on # images of Fashion-MNIST", images)
    finals = [run for run in runs("fashion_small") if run["model"] == "resnet8"]
    found = of(finals, "test_accuracy")
    assert {len(accuracies) for accuracies in found.values()} == {len(found)} == {10}
    accuracy = means(found)
    says(
        BENCHMARKS,
        "# to # points above SAM, two of the four significantly in this table,",
        *ends(accuracy[method] - accuracy["sam"] for method in FORMS),
    )
    says(
        README,
        "# to # points above SAM, two of them significantly, and normalised SAM #.",
        *ends(accuracy[method] - accuracy["sam"] for method in FORMS if "xsam" in method),
        accuracy["normalized_sam"] - accuracy["sam"],
    )
    assert {method: on_resnet for method, (on_resnet, _) in verdicts("fashion_small").items()} == {
        method: "better" if method in ("xsam_projector", "xsam_oja") else "not significant"
        for method in accuracy
        if method != "sam"
    }
    others = accuracy.keys() - set(FORMS)
    gaps, p = compare(by_seed(finals), itertools.product(FORMS, others))
    says(BENCHMARKS, "and # to # above every method of the other group", *ends(gaps))
    says(
        BENCHMARKS,
        "# of these # comparisons significantly",
        sum(each < LEVEL for each in p),
        len(p),
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
    says(README, "These four end with little more than half of SAM's largest eigenvalue.")
    assert max(curvature[method] for method in FORMS) < 0.6 * curvature["sam"]


def test_no_choice_lies_at_the_edge_of_the_search() -> None:
    says(BENCHMARKS, "Now none lies at an edge.")
    for name in ("digits", "digits_again", "cheap", "fashion_small", "cheap_fashion"):
        assert "tried)" not in (RESULTS / name / "report.md").read_text()


def test_fashion_small_on_a_cnn() -> None:
    finals = runs("fashion_small")
    cnn = of(finals, "test_accuracy", model="small_cnn")
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
        "xsam": 1,
    }
    for text in (README, BENCHMARKS):
        says(text, "On a small CNN nothing is significant.")
    judged = verdicts("fashion_small")
    assert judged.keys() == cnn.keys() - {"sam"}
    assert {on_cnn for _, on_cnn in judged.values()} == {"not significant"}


def test_what_the_eigenvector_adds_on_fashion_mnist() -> None:
    _, added = halves("fashion_small")
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
    *others, dead = sorted(accuracies["xsam"], reverse=True)
    assert len(others) == 9
    says(BENCHMARKS, "which dies at #%, and has #% in the other nine", dead, mean(others))
    *others, fallen = sorted(accuracies["sam"], reverse=True)
    says(
        BENCHMARKS,
        "SAM has #%, and #% without the run that fell to #%.",
        accuracy["sam"],
        mean(others),
        fallen,
    )
    says(
        BENCHMARKS,
        "Normalised SGD ends at #% for one gradient a step.",
        accuracy["normalized_sgd"],
    )
    assert {report("cheap_fashion")[m][3] for m in accuracy if m != "sam"} == {"not significant"}


def test_fashion_on_a_gpu() -> None:
    found = runs("fashion_gpu")
    accuracy = of(found, "test_accuracy")
    settings = PRESETS["fashion"]
    planned = len(settings.methods) * len(settings.seeds)
    says(
        BENCHMARKS,
        "with the paper's hyperparameters but # of its # epochs.",
        settings.settings["epochs"],
        200,
    )
    says(BENCHMARKS, "# of its # runs are there", len(found), planned)
    says(README, "all of Fashion-MNIST: # of # runs were made", len(found), planned)
    xsam = [method for method in accuracy if method in ("xsam", "xsam_projector", "xsam_oja")]
    assert all(len(accuracy[method]) == 2 for method in (*xsam, "normalized_sam"))
    pairs = means(of([run for run in found if run["seed"] < 2], "test_accuracy"))
    gains = {method: pairs[method] - pairs["sam"] for method in pairs}
    says(
        BENCHMARKS,
        "is # to # points above SAM in the two",
        *ends([gains[method] for method in xsam]),
    )
    says(
        README,
        "X-SAM is # to # points above SAM, normalised SAM #.",
        *ends([gains[method] for method in xsam]),
        gains["normalized_sam"],
    )
    sharpness = {
        method: mean(value for value in values if value is not None)
        for method, values in of([run for run in found if run["seed"] < 2], "lambda_max").items()
        if method in (*xsam, "sam", "normalized_sam")
    }
    says(
        BENCHMARKS,
        "largest eigenvalue of # to # where SAM ends at #, as the paper",
        *ends([sharpness[method] for method in xsam]),
        sharpness["sam"],
    )
    says(
        BENCHMARKS,
        "an eigenvector: # points and #.",
        gains["normalized_sam"],
        sharpness["normalized_sam"],
    )
    assert all(
        "not significant" in report("fashion_gpu")[method]
        for method in gains
        if method not in ("sam", "xsam_late")
    )
    dead = {method: [value < 11 for value in values] for method, values in accuracy.items()}
    says(BENCHMARKS, "three of five runs of SGD and two of four of Eigen-SAM died at 10%.")
    assert (sum(dead["sgd"]), len(dead["sgd"])) == (3, 5)
    assert (sum(dead["eigen_sam"]), len(dead["eigen_sam"])) == (2, 4)
    assert sum(map(sum, dead.values())) == 5
