"""Tables of the benchmarks, from their results.jsonl and report.md."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.benchmark.report.cells import mean_of, plus_minus
from experiments.benchmark.report.statistics import (
    LEVEL,
    differences_of,
    holm,
    p_value,
    summarize,
)
from experiments.common.tables import markdown
from experiments.training.methods import gradients_per_step
from experiments.workers import store
from experiments.workers.store import Line

_SAM = "sam"
_BASELINES = {_SAM: "to SAM", "normalized_sam": "to normalised SAM"}


def accuracy(results: Path, folder: str, network: str, *methods: str) -> str:
    """Quote the rows of some methods, or of all, from the report on one network."""
    _, *sections = (results / folder / "report.md").read_text().split("\n## ")
    (section,) = (text for text in sections if text.startswith(f"{network} on "))
    lines = [line for line in section.split("\n\n")[1].splitlines() if line.startswith("|")]
    head, rows = lines[:2], {line.split("|")[1].strip(): line for line in lines[2:]}
    return "\n".join([*head, *(rows[method] for method in methods or rows)])


def pooled(results: Path, folders: str, network: str, *methods: str) -> str:
    """Compare every two methods over the final runs of several searches together.

    Args:
        results: Folder of the results.
        folders: The benchmarks' folders, with + between them.
        network: The network of the runs.
        *methods: Which ones are compared; all if none is named.

    Returns:
        A row for each method. "above" and "below" count the methods from which it differs
        significantly, Holm-corrected over all pairs of the table.
    """
    runs = _finals(results, folders, network)
    runs = {method: runs[method] for method in methods or runs}
    baselines = {method: name for method, name in _BASELINES.items() if method in runs}
    judged = _pairs({method: _by_seed(lines) for method, lines in runs.items()})

    def to(baseline: str, method: str) -> str:
        gap, word = judged.get((method, baseline), (None, ""))
        return "" if gap is None else f"{gap:+.2f}" + (f", {word}" if word else "")

    rows = []
    for method, lines in runs.items():
        values = [*_by_seed(lines).values()]
        words = [word for (ours, _), (_, word) in judged.items() if ours == method]
        rows.append(
            (
                method,
                plus_minus(summarize(values), 2),
                f"{min(values):.1f}",
                str(len(values)),
                f"{gradients_per_step(lines[0]['config']):.2f}",
                *(to(baseline, method) for baseline in baselines),
                str(words.count("better")),
                str(words.count("worse")),
                mean_of(lines, "lambda_max", 2),
            )
        )
    header = (
        *("method", "test accuracy", "lowest", "n", "gradients a step"),
        *baselines.values(),
        *("above", "below", "lambda_max"),
    )
    return markdown(header, rows)


def learning_rates(results: Path, folders: str, *methods: str) -> str:
    """The learning rate that each search chose for SAM, and those of methods relative to it."""
    rows = []
    for folder in folders.split("+"):
        finals = [line for line in store.read(results / folder) if line["stage"] == "final"]
        for network in dict.fromkeys(line["config"]["model"] for line in finals):
            runs = _finals(results, folder, network)
            rates = {method: lines[0]["config"]["learning_rate"] for method, lines in runs.items()}
            to_sam = [f"{rates[m] / rates[_SAM]:.1f}" if m in rates else "" for m in methods]
            rows.append((folder, network, f"{rates[_SAM]:.3f}", *to_sam))
    return markdown(("search", "network", _SAM, *(f"{m} / {_SAM}" for m in methods)), rows)


def sizes(results: Path, *folders: str) -> str:
    """What each benchmark ran, and in how much time."""
    rows = []
    for folder in folders:
        lines = store.read(results / folder)
        finals, trials = ([x for x in lines if x["stage"] == s] for s in ("final", "tuning"))
        networks, methods, tuned = (
            dict.fromkeys(line["config"][name] for line in of)
            for name, of in (("model", finals), ("method", finals), ("seed", trials))
        )
        images = finals[0]["config"]["train_images"]
        # A network may lack a method, as long as a benchmark is not finished.
        cells = {(line["config"]["model"], line["config"]["method"]) for line in finals}
        each = len(trials) // (len(cells) * max(1, len(tuned)))
        on_cpu = all(line.get("platform", "cpu") == "cpu" for line in lines)
        minutes = f"{sum(line['cpu_seconds'] for line in lines) / 60:.0f}"
        rows.append(
            (
                f"[{folder}](../results/{folder}/report.md)",
                ", ".join(networks),
                "all" if images is None else f"{images:,}",
                str(len(methods)),
                f"{each} x {len(tuned)} seeds" if trials else "none",
                str(len({line["config"]["seed"] for line in finals})),
                f"{len(lines):,}",
                minutes if on_cpu else "on a GPU",
            )
        )
    header = (
        *("results", "networks", "training images", "methods", "trials of each"),
        *("final seeds", "runs", "minutes of CPU time"),
    )
    return markdown(header, rows)


def _finals(results: Path, folders: str, network: str) -> dict[str, list[Line]]:
    """The final runs on a network, by method."""
    found: dict[str, list[Line]] = {}
    for folder in folders.split("+"):
        for line in store.read(results / folder):
            if line["stage"] == "final" and line["config"]["model"] == network:
                found.setdefault(line["config"]["method"], []).append(line)
    return found


def _by_seed(lines: Sequence[Line]) -> dict[int, float]:
    return {line["config"]["seed"]: line["result"]["test_accuracy"] for line in lines}


def _pairs(
    scores: Mapping[str, Mapping[int, float]],
) -> dict[tuple[str, str], tuple[float, str]]:
    """Compare every two methods, in both orders: the mean difference, and a word if significant."""
    compared = {
        pair: differences
        for pair in itertools.combinations(scores, 2)
        if (differences := differences_of(scores[pair[0]], scores[pair[1]])).size > 1
    }
    adjusted = holm([p_value(differences) for differences in compared.values()])
    found: dict[tuple[str, str], tuple[float, str]] = {}
    for ((ours, theirs), differences), p in zip(compared.items(), adjusted, strict=True):
        for pair, mean in (
            ((ours, theirs), float(differences.mean())),
            ((theirs, ours), -float(differences.mean())),
        ):
            word = "better" if mean > 0 else "worse"
            found[pair] = mean, word if p < LEVEL else ""
    return found
