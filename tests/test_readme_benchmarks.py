"""What README's prose says of the benchmarks, computed from the committed runs."""

import itertools
import json
import re
from collections.abc import Iterable
from statistics import mean
from typing import Any

import pytest

from experiments.benchmark.presets import PRESETS
from experiments.report.statistics import LEVEL, holm, paired
from tests.readme import RESULTS, ends, runs, says

VERDICTS = ("better", "worse", "not significant")


def of(runs: list[dict[str, Any]], value: str, **chosen: Any) -> dict[str, list[float]]:
    """The values of each method's runs."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if all(run[name] == wanted for name, wanted in chosen.items()):
            found.setdefault(run["method"], []).append(run[value])
    return found


def means(values: dict[str, list[float]]) -> dict[str, float]:
    return {method: mean(numbers) for method, numbers in values.items()}


def halves(name: str) -> tuple[str, str]:
    """A report without the comparisons with normalised SAM, and these of all its networks."""
    text = (RESULTS / name / "report.md").read_text()
    section = "### What the eigenvector adds.*?(?=###)"
    return re.sub(section, "", text, flags=re.DOTALL), "".join(re.findall(section, text, re.DOTALL))


def report(name: str) -> dict[str, list[str]]:
    """The rows of the tables of a report, by method; those of a method one after the other."""
    found: dict[str, list[str]] = {}
    text, _ = halves(name)
    for line in text.splitlines():
        if line.startswith("| "):
            method, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            found.setdefault(method, []).extend(cells)
    return found


def verdicts(name: str) -> dict[str, list[str]]:
    """What a report says of each method but SAM, one after the other for its networks."""
    judged = {m: [c for c in cells if c in VERDICTS] for m, cells in report(name).items()}
    return {method: found for method, found in judged.items() if found}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("digits", "# runs of an MLP on # digits in # minutes of CPU time"),
        ("fashion_small", "for each trial, in # minutes of CPU time"),
        ("cheap", "[results/cheap](results/cheap/report.md), # minutes of CPU time)"),
    ],
)
def test_benchmarks_size(name: str, sentence: str) -> None:
    lines = [json.loads(s) for s in (RESULTS / name / "results.jsonl").read_text().splitlines()]
    minutes = sum(line["cpu_seconds"] for line in lines) / 60
    (images,) = {line["config"]["train_images"] for line in lines}
    says(sentence, *(len(lines), images)[: sentence.count("#") - 1], minutes)


NORMALIZED = (
    "xsam",
    "xsam_projector",
    "xsam_oja",
    "normalized_sam",
    "xsam_random",
    "xsam_lanczos",
    "xsam_subspace",
)


Accuracies = dict[str, dict[int, float]]


def by_seed(finals: Iterable[dict[str, Any]]) -> Accuracies:
    """The accuracy of each method by seed."""
    found: Accuracies = {}
    for run in finals:
        found.setdefault(run["method"], {})[run["seed"]] = run["test_accuracy"]
    return found


def compare(
    accuracy: Accuracies, pairs: Iterable[tuple[str, str]]
) -> tuple[list[float], list[float]]:
    """Mean differences, and the p-values that are Holm-corrected over all pairs."""
    found = [paired(accuracy[ours], accuracy[theirs]) for ours, theirs in pairs]
    known = [difference for difference in found if difference is not None]
    return [difference.mean for difference in known], holm([d.p for d in known])


def test_digits() -> None:
    others = by_seed(runs("digits")).keys() - set(NORMALIZED)
    for name, sentence in (
        ("digits", "ends at # to #%, every other method at # to #%"),
        ("digits_again", "it is # to #% and # to #%. Over"),
    ):
        accuracy = means(of(runs(name), "test_accuracy"))
        groups = ([accuracy[method] for method in group] for group in (NORMALIZED, others))
        says(sentence, *(end for group in groups for end in ends(group)))
    (seeds,) = {len(accuracies) for accuracies in by_seed(runs("digits")).values()}
    says("then runs # seeds of each", seeds)
    tuning = runs("digits", "tuning")
    (images,) = {run["validation_images"] for run in tuning}
    says("on # training images that no run trains on", images)
    assert len({run["seed"] for run in tuning}) == 8


def test_forty_seeds_on_digits() -> None:
    accuracy = by_seed([*runs("digits"), *runs("digits_again")])
    (seeds,) = {len(accuracies) for accuracies in accuracy.values()}
    says("Over the # seeds of both, each", seeds)
    says("nothing that # seeds can see", seeds)

    gains, _ = compare(accuracy, ((method, "sam") for method in NORMALIZED))
    says("each of the seven is # to # points above SAM", *ends(gains))
    gains, p = compare(accuracy, itertools.product(NORMALIZED, accuracy.keys() - set(NORMALIZED)))
    assert min(gains) > 0
    assert max(p) < LEVEL
    _, p = compare(accuracy, itertools.combinations(NORMALIZED, 2))
    assert len(p) == 21
    assert min(p) > LEVEL
    mean_of = means({method: [*found.values()] for method, found in accuracy.items()})
    assert max(NORMALIZED, key=lambda method: mean_of[method]) == "xsam"
    says(
        "mean of them, # points above normalised SAM, which has no eigenvector, and # above",
        *(mean_of["xsam"] - mean_of[method] for method in ("normalized_sam", "xsam_random")),
    )


@pytest.mark.parametrize("name", ["digits", "digits_again"])
def test_what_the_eigenvector_adds(name: str) -> None:
    _, added = halves(name)
    found = re.findall(r"^\| (\w+) \| ([-+][\d.]+) \[.*\| ([a-z ]+) \|$", added, re.MULTILINE)
    accuracy = means(of(runs(name), "test_accuracy"))
    assert found == [
        (method, f"{accuracy[method] - accuracy['normalized_sam']:+.2f}", "not significant")
        for method in NORMALIZED
        if method != "normalized_sam"
    ]


FORMS = ("normalized_sam", "xsam", "xsam_projector", "xsam_oja")


def test_fashion_small_on_resnet8() -> None:
    (images,) = {run["train_images"] for run in runs("fashion_small")}
    says("does the same for ten methods on # images of Fashion-MNIST", images)
    finals = [run for run in runs("fashion_small") if run["model"] == "resnet8"]
    found = of(finals, "test_accuracy")
    assert {len(accuracies) for accuracies in found.values()} == {len(found)} == {10}
    accuracy = means(found)
    says(
        "# to # points above SAM, each significantly",
        *ends(accuracy[method] - accuracy["sam"] for method in FORMS),
    )
    assert {method: on_resnet for method, (_, on_resnet) in verdicts("fashion_small").items()} == {
        method: "better" if method in FORMS else "not significant"
        for method in accuracy
        if method != "sam"
    }
    others = accuracy.keys() - set(FORMS)
    gaps, p = compare(by_seed(finals), itertools.product(FORMS, others))
    says("and # to # above every method of the other group", *ends(gaps))
    says("# of these # comparisons significantly", sum(each < LEVEL for each in p), len(p))
    gaps = [abs(accuracy[method] - accuracy["normalized_sam"]) for method in FORMS]
    says("the three forms lie within # points of normalised SAM", max(gaps))
    curvature = means(of(finals, "lambda_max"))
    says(
        "On ResNet-8 they end with # to #, where SAM has # and SGD #.",
        *ends(curvature[method] for method in FORMS),
        curvature["sam"],
        curvature["sgd"],
    )


def test_fashion_small_on_a_cnn() -> None:
    finals = runs("fashion_small")
    cnn = of(finals, "test_accuracy", model="small_cnn")
    assert {len(accuracies) for accuracies in cnn.values()} == {10}
    says("its means are # to #%, but single", *ends(means(cnn).values()))
    falls = {method: max(found) - min(found) for method, found in cnn.items()}
    assert sum(fall >= 10 for fall in falls.values()) > len(cnn) / 2
    says("two with the projector and one each of SGD, X-SAM, Oja's tracker and normalised SAM died")
    deaths = {method: sum(accuracy < 11 for accuracy in found) for method, found in cnn.items()}
    assert {method: dead for method, dead in deaths.items() if dead} == {
        "sgd": 1,
        "normalized_sam": 1,
        "xsam": 1,
        "xsam_projector": 2,
        "xsam_oja": 1,
    }
    says("On a small CNN nothing is significant.")
    judged = verdicts("fashion_small")
    assert judged.keys() == cnn.keys() - {"sam"}
    assert {on_cnn for on_cnn, _ in judged.values()} == {"not significant"}
    alive = [run for run in finals if run["test_accuracy"] > 11]
    curvature = means(of(alive, "lambda_max", model="small_cnn"))
    says(
        "three forms end with a largest eigenvalue of # to # where SAM has # (without the runs",
        *ends(curvature[method] for method in FORMS),
        curvature["sam"],
    )


def test_what_the_eigenvector_adds_on_fashion_mnist() -> None:
    _, added = halves("fashion_small")
    verdicts = re.findall(r"\| ([a-z ]+) \|$", added, re.MULTILINE)
    assert [verdict for verdict in verdicts if verdict in VERDICTS] == ["not significant"] * 6


def test_cheap() -> None:
    accuracy, verdicts = means(of(runs("cheap"), "test_accuracy")), report("cheap")
    cheap = ("xsam_late", "xsam_sparse", "xsam_part")
    costs = {method: float(verdicts[method][8]) for method in (*cheap, "xsam")}
    (run,) = [r for r in runs("cheap") if (r["method"], r["seed"]) == ("xsam_late", 0)]
    late = 100 * (1 - run["late_start"])
    says(
        "Oja's rule in the last #% of the steps, normalised SGD before: # gradients a step",
        late,
        costs["xsam_late"],
    )
    assert (run["sparse_every"], run["ascent_part"]) == (3, 0.25)
    says("(the same in every third step: #)", costs["xsam_sparse"])
    says(
        "from a quarter of the batch: #) all end within the interval of X-SAM itself (#) or above",
        costs["xsam_part"],
        costs["xsam"],
    )
    low = float(re.findall(r"[-+][\d.]+", verdicts["xsam"][2])[1])
    assert all(low <= accuracy[method] - accuracy["sam"] for method in cheap)
    says("the first and the last significantly above SAM.")
    assert [verdicts[method][3] for method in cheap] == ["better", "not significant", "better"]
    gain = accuracy["xsam"] - accuracy["sgd"]
    says("Of X-SAM's gain over SGD half comes from normalising SGD's gradient")
    half = (accuracy["normalized_sgd"] - accuracy["sgd"]) / gain
    assert half == pytest.approx(0.5, abs=0.05)
    says("What both tables have are the same runs")
    here, before = (of(runs(name), "test_accuracy") for name in ("cheap", "digits"))
    assert here.keys() & before.keys() == {"sgd", "sam", "xsam", "xsam_oja"}
    assert all(here[method] == before[method] for method in here.keys() & before.keys())


def test_cheap_on_fashion_mnist() -> None:
    accuracies = of(runs("cheap_fashion"), "test_accuracy")
    accuracy = means(accuracies)
    says(
        "the same recipes end at #, # and #% in ten seeds",
        *(accuracy[method] for method in ("xsam_late", "xsam_sparse", "xsam_part")),
    )
    *others, dead = sorted(accuracies["xsam"], reverse=True)
    assert len(others) == 9
    says("which dies at #%, and has #% in the other nine", dead, mean(others))
    says("in the other nine; SAM has #%", accuracy["sam"])
    assert max(accuracy, key=lambda method: accuracy[method]) == "normalized_sgd"
    says("is best, #% for one gradient a step", accuracy["normalized_sgd"])
    assert {report("cheap_fashion")[m][3] for m in accuracy if m != "sam"} == {"not significant"}


def test_fashion_on_a_gpu() -> None:
    found = runs("fashion_gpu")
    accuracy = of(found, "test_accuracy")
    settings = PRESETS["fashion"]
    planned = len(settings.methods) * len(settings.seeds)
    says(
        "with the paper's hyperparameters but # of its # epochs.", settings.settings["epochs"], 200
    )
    says("# of its # runs are there", len(found), planned)
    xsam = [method for method in accuracy if method in ("xsam", "xsam_projector", "xsam_oja")]
    assert all(len(accuracy[method]) == 2 for method in (*xsam, "normalized_sam"))
    pairs = means(of([run for run in found if run["seed"] < 2], "test_accuracy"))
    gains = {method: pairs[method] - pairs["sam"] for method in pairs}
    says("is # to # points above SAM in the two", *ends([gains[method] for method in xsam]))
    sharpness = {
        method: mean(value for value in values if value is not None)
        for method, values in of(found, "lambda_max").items()
        if method in (*xsam, "sam", "normalized_sam")
    }
    says(
        "largest eigenvalue of # to # where SAM's five seeds end at #,",
        *ends([sharpness[method] for method in xsam]),
        sharpness["sam"],
    )
    says("an eigenvector: # points and #.", gains["normalized_sam"], sharpness["normalized_sam"])
    assert all(
        "not significant" in report("fashion_gpu")[method]
        for method in gains
        if method not in ("sam", "xsam_late")
    )
    dead = {method: [value < 11 for value in values] for method, values in accuracy.items()}
    says("three of five runs of SGD and two of four of Eigen-SAM died at 10%.")
    assert (sum(dead["sgd"]), len(dead["sgd"])) == (3, 5)
    assert (sum(dead["eigen_sam"]), len(dead["eigen_sam"])) == (2, 4)
    assert sum(map(sum, dead.values())) == 5
