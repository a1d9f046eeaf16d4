"""The committed runs of the benchmarks and what their reports say."""

import re
from collections.abc import Iterable
from statistics import mean
from typing import Any

from experiments.benchmark.report.statistics import holm, paired
from tests.documents.text import RESULTS, runs

VERDICTS = ("better", "worse", "not significant")
NORMALIZED = (
    "xsam_p100",
    "xsam_projector",
    "xsam_oja",
    "normalized_sam",
    "xsam_random",
    "xsam_lanczos",
    "xsam_subspace",
)
ON_DIGITS = ("xsam", *NORMALIZED)
FORMS_OF_X_SAM = ("xsam_p100", "xsam_projector", "xsam_oja", "xsam_subspace")
FORMS = ("normalized_sam", "xsam_p100", "xsam_projector", "xsam_oja")

Accuracies = dict[str, dict[int, float]]


def of(runs: list[dict[str, Any]], value: str, **chosen: Any) -> dict[str, list[float]]:
    """The values of each method's runs."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if all(run[name] == wanted for name, wanted in chosen.items()):
            found.setdefault(run["method"], []).append(run[value])
    return found


def on(network: str, *names: str) -> list[dict[str, Any]]:
    """The runs on one network of some benchmarks."""
    return [run for name in names for run in runs(name) if run["model"] == network]


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


def better(name: str, place: int) -> set[str]:
    """What a report says is better than SAM on its network of this place; nothing is worse."""
    found = {method: judged[place] for method, judged in verdicts(name).items()}
    assert found.keys() == {run["method"] for run in runs(name)} - {"sam"}
    assert "worse" not in found.values()
    return {method for method, verdict in found.items() if verdict == "better"}


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
