"""The text of a report: its tables and sentences."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.benchmark.report.cells import chosen, mean_of, plus_minus, refreshes
from experiments.benchmark.report.pictures import accuracies, curves
from experiments.benchmark.report.published import published
from experiments.benchmark.report.statistics import holm, paired, summarize, verdict
from experiments.common.errors import UserError
from experiments.common.tables import markdown
from experiments.training.methods import METHODS, ONE_GRADIENT, gradients_per_step
from experiments.workers.store import Line, but_for_the_seed

_BASELINE = "sam"
# X-SAM with alpha = 0.
_CONTROL = "normalized_sam"
_WITH_A_VECTOR = {method for method, spec in METHODS.items() if spec.control == _CONTROL}
Runs = Mapping[str, Sequence[Line]]  # method -> its final runs
Verdicts = Mapping[str, tuple[str, str]]  # method -> the difference in figures and in words


def report(lines: Sequence[Line], pictures: dict[str, bytes]) -> str:
    """Write a report in Markdown.

    Args:
        lines: All lines of a benchmark.
        pictures: Receives the pictures, by the names that the text gives them.

    Returns:
        The text.

    Raises:
        UserError: Runs of one method have different options or hyperparameters.
    """
    groups: dict[tuple[str, str], dict[str, list[Line]]] = {}
    for line in lines:
        if line["stage"] == "final":
            config = line["config"]
            methods = groups.setdefault((config["dataset"], config["model"]), {})
            methods.setdefault(config["method"], []).append(line)
    for methods in groups.values():
        _refuse_mixtures(methods)
    parts = [_head(lines)]
    for (dataset, model), runs in groups.items():
        trials = [
            line
            for line in lines
            if line["stage"] == "tuning"
            and (line["config"]["dataset"], line["config"]["model"]) == (dataset, model)
        ]
        where = f"{model} on {dataset}"
        stem = f"{dataset}-{model}"
        verdicts = _verdicts(runs, _BASELINE)
        pictures[f"{stem}-accuracy.png"] = accuracies(where, runs)
        pictures[f"{stem}-curves.png"] = curves(f"{where}, means over the seeds", runs)
        parts += [
            f"## {where}",
            _accuracy_table(dataset, model, runs, verdicts),
            " ".join([_findings(verdicts), *_left_out(runs)]),
            f"![Test accuracy, {where}]({stem}-accuracy.png)",
            *_what_the_vector_adds(runs),
            "### Curvature and cost",
            _curvature_table(runs),
            f"![Curves, {where}]({stem}-curves.png)",
            "### Hyperparameters",
            _hyperparameters(runs, trials),
        ]
    return "\n\n".join(parts) + "\n"


def _refuse_mixtures(runs: Runs) -> None:
    for method, lines in runs.items():
        if len({but_for_the_seed(line["config"]) for line in lines}) > 1:
            raise UserError(
                f"The final runs of {method} differ in more than the seed: they have no mean."
            )


def _head(lines: Sequence[Line]) -> str:
    finals = [line for line in lines if line["stage"] == "final"]
    tuned = [line for line in lines if line["stage"] == "tuning"]
    minutes = sum(line["cpu_seconds"] for line in lines) / 60
    revisions = ", ".join(sorted({line["revision"] or "unknown" for line in lines}))
    versions = ", ".join(f"{k} {v}" for k, v in finals[0]["result"]["versions"].items())
    tuning = (
        f"Learning rate and radius were chosen for each method on held-out training images, with "
        f"the same number of trials for each ({len(tuned)} runs in all); the test data were read "
        "for the final runs only."
        if tuned
        else "Nothing was tuned."
    )
    return (
        f"# Benchmark of {len(finals)} run{'s' if len(finals) > 1 else ''}\n\n"
        f"{tuning} {minutes:.0f} minutes of CPU time, git "
        f"revision {revisions}; {versions}.\n\n"
        "Accuracies are in percent, mean ± standard deviation over n seeds. The difference to SAM "
        "is that of runs with the same seed, with its 95% bootstrap interval (10,000 resamples). "
        "A bootstrap over few seeds is too narrow, and the interval is that of one comparison, so "
        "a difference is called better or worse only if the paired t-test agrees, Holm-corrected "
        "over the methods of the table, at 5%. Both take the hyperparameters as they are: the luck "
        "of a search is not in them. Gradients a step count a Hessian product as two."
    )


def _by_seed(lines: Sequence[Line]) -> dict[int, float]:
    return {line["config"]["seed"]: line["result"]["test_accuracy"] for line in lines}


def _verdicts(runs: Runs, baseline: str) -> Verdicts:
    """Compare each method with the baseline: the difference with its interval, and a verdict."""
    if baseline not in runs:
        return {}
    reference = _by_seed(runs[baseline])
    found = {
        method: paired(_by_seed(lines), reference)
        for method, lines in runs.items()
        if method != baseline
    }
    known = {method: difference for method, difference in found.items() if difference is not None}
    adjusted = holm([difference.p for difference in known.values()])
    return {
        method: (f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]", verdict(d, p))
        for (method, d), p in zip(known.items(), adjusted, strict=True)
    }


def _accuracy_table(dataset: str, model: str, runs: Runs, verdicts: Verdicts) -> str:
    rows = []
    for method, lines in runs.items():
        summary = summarize(list(_by_seed(lines).values()))
        difference, words = verdicts.get(method) or _of_one_pair(lines, runs.get(_BASELINE, ()))
        paper = published(dataset, model, method)
        price = f"{gradients_per_step(lines[0]['config']):.2f}"
        accuracy = plus_minus(summary, 2)
        rows.append((method, accuracy, str(summary.n), price, difference, words, paper))
    header = (
        "method",
        "test accuracy",
        "n",
        "gradients a step",
        "difference to SAM",
        "verdict",
        "the paper's",
    )
    columns = len(header) if any(row[-1] for row in rows) else len(header) - 1
    return markdown(header[:columns], [row[:columns] for row in rows])


def _of_one_pair(lines: Sequence[Line], baseline: Sequence[Line]) -> tuple[str, str]:
    """The difference where one seed has both, which has neither interval nor verdict."""
    ours, theirs = _by_seed(lines), _by_seed(baseline)
    gaps = [ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()]
    if len(gaps) != 1 or lines is baseline:
        return "", ""
    return f"{gaps[0]:+.2f}", "one pair"


def _findings(verdicts: Verdicts) -> str:
    sentences = []
    for word in ("better", "worse"):
        named = [method for method, (_, verdict_) in verdicts.items() if verdict_ == word]
        sentences.append(f"Significantly {word} than SAM: {', '.join(named) if named else 'none'}.")
    open_ = [method for method, (_, verdict_) in verdicts.items() if verdict_ == "not significant"]
    if open_:
        sentences.append(f"Not significant: {', '.join(open_)}.")
    return (
        " ".join(sentences) if verdicts else "There are too few pairs of runs to compare with SAM."
    )


def _left_out(runs: Runs) -> list[str]:
    """Name the methods with runs in which steps were not finite and so were left out."""
    numbers = {
        method: sum(
            # Earlier versions did not count them.
            line.get("bad_steps", 0) > 0 or line["result"]["train_loss"] is None
            for line in lines
        )
        for method, lines in runs.items()
    }
    named = [f"{m} {number} of {len(runs[m])}" for m, number in numbers.items() if number]
    if not named:
        return []
    return [f"Runs in which steps that were not finite were left out: {', '.join(named)}."]


def _what_the_vector_adds(runs: Runs) -> list[str]:
    verdicts = _verdicts(
        {method: lines for method, lines in runs.items() if method in {_CONTROL, *_WITH_A_VECTOR}},
        _CONTROL,
    )
    if not verdicts:
        return []
    rows = [(method, *verdict_) for method, verdict_ in verdicts.items()]
    return [
        "### What the eigenvector adds",
        "Normalised SAM is X-SAM with alpha = 0, without an eigenvector.",
        markdown(("method", "difference to normalised SAM", "verdict"), rows),
    ]


def _curvature_table(runs: Runs) -> str:
    costs = {
        method: np.median([line["cpu_seconds"] / line["result"]["steps"] for line in lines])
        for method, lines in runs.items()
    }
    rows = []
    for method, lines in runs.items():
        values = [
            mean_of(lines, "lambda_max", 3),
            mean_of(lines, "trace", 1),
            mean_of(lines, "train_loss", 4),
        ]
        ratio = f"{costs[method] / costs[_BASELINE]:.2f}" if _BASELINE in costs else ""
        rows.append((method, *values, ratio))
    header: tuple[str, ...] = ("method", "lambda_max", "trace", "training loss")
    text = (
        "lambda_max and trace are the Hessian's on a fixed training subset at the end; where some "
        "runs have none, as after a loss that was not finite, it is said of how many the mean is, "
        "and the curves leave the epoch out."
    )
    # On an accelerator the CPU only hands out the work.
    if all(line.get("platform", "cpu") == "cpu" for lines in runs.values() for line in lines):
        header = (*header, "CPU time to SAM's")
        text += (
            " The CPU time is that of whole runs, compilation and measurements included, several "
            "at a time on the machine: it says less than `experiments.speed`."
        )
    return f"{markdown(header, [row[: len(header)] for row in rows])}\n\n{text}"


def _hyperparameters(runs: Runs, trials: Sequence[Line]) -> str:
    rows = []
    for method, lines in runs.items():
        config = lines[0]["config"]
        of_method = [line for line in trials if line["config"]["method"] == method]
        tried = {
            name: {line["config"][name] for line in of_method} for name in ("learning_rate", "rho")
        }
        scores = [
            line["result"]["test_accuracy"]
            for line in of_method
            if all(line["config"][name] == config[name] for name in ("learning_rate", "rho"))
        ]
        rows.append(
            (
                method,
                chosen(config["learning_rate"], tried["learning_rate"]),
                "" if method in ONE_GRADIENT else chosen(config["rho"], tried["rho"]),
                str(len(of_method)),
                plus_minus(summarize(scores), 2) if scores else "",
                refreshes(config),
            )
        )
    header = ("method", "learning rate", "rho", "tuning runs", "held-out accuracy", "eigenvector")
    return markdown(header, rows)
