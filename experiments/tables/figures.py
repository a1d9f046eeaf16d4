"""Tables of the numbers in the paper's figures."""

from pathlib import Path
from statistics import mean, median, stdev

from experiments.common.tables import markdown
from experiments.tables.measurements import read_csv


def angles(results: Path) -> str:
    """How SAM's second gradient stands to the eigenvector (the paper's Figure 1)."""
    rows = read_csv(results / "figures/angle.csv")
    table = []
    for kind in ("plain", "layerwise"):
        found = [float(row[kind]) for row in rows]
        orthogonal = sum(angle >= 80 for angle in found)
        table.append(
            (
                kind,
                str(len(found)),
                f"{orthogonal} ({100 * orthogonal / len(found):.0f}%)",
                f"{min(found):.0f}, {median(found):.0f}, {max(found):.0f}",
                f"{stdev(found):.0f}",
            )
        )
    header = (
        *("angle", "n", "between 80 and 100", "smallest, median, largest"),
        "standard deviation",
    )
    return markdown(header, table)


def changes(results: Path) -> str:
    """What a step of SAM does to the eigenvalue, by its angle to the eigenvector."""
    found = [
        (float(r["plain"]), 100 * float(r["change"]))
        for r in read_csv(results / "figures/angle.csv")
    ]
    table = []
    for name, low, high in (("below 50", 0, 50), ("50 to 80", 50, 80), ("from 80 on", 80, 91)):
        group = [change for angle, change in found if low <= angle < high]
        if group:
            table.append(
                (
                    name,
                    str(len(group)),
                    str(sum(change > 0 for change in group)),
                    str(sum(change < 0 for change in group)),
                    f"{min(group):+.0f}, {median(group):+.1f}, {max(group):+.0f}",
                    f"{median(map(abs, group)):.1f}",
                )
            )
    header = (
        *("angle in degrees", "steps", "raised it", "lowered it"),
        *("smallest, median, largest change in %", "median size in %"),
    )
    return markdown(header, table)


def curves(results: Path) -> str:
    """Accuracy and largest eigenvalue after the last epoch (the paper's Figure 2)."""
    rows = read_csv(results / "figures/curves.csv")
    last = [row for row in rows if row["epoch"] == rows[-1]["epoch"]]
    table = []
    for method in dict.fromkeys(row["method"] for row in last):
        accuracy, sharpness = (
            [float(row[name]) for row in last if row["method"] == method]
            for name in ("test_accuracy", "lambda_max")
        )
        each = ", ".join(f"{value:.0f}" for value in sharpness)
        table.append((method, f"{mean(accuracy):.1f}", f"{mean(sharpness):.1f}", each))
    header = ("method", "test accuracy", "lambda_max", "lambda_max of each seed")
    return markdown(header, table)


def spectrum(results: Path) -> str:
    """The largest eigenvalues at the end, means over the seeds (the paper's Figure 3)."""
    rows = read_csv(results / "figures/spectrum.csv")
    shown = ("1", "2", "5", "10")
    table = []
    for method in dict.fromkeys(row["method"] for row in rows):
        of = {
            index: [
                float(r["eigenvalue"]) for r in rows if (r["method"], r["index"]) == (method, index)
            ]
            for index in shown
        }
        table.append((method, *(f"{mean(of[index]):.1f}" for index in shown)))
    return markdown(("method", *(f"eigenvalue {index}" for index in shown)), table)


def alpha(results: Path) -> str:
    """Accuracy by alpha, means over the seeds (the paper's Figure 4)."""
    rows = read_csv(results / "figures/alpha.csv")
    values = dict.fromkeys(row["alpha"] for row in rows)
    table = []
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [
            [
                float(r["test_accuracy"])
                for r in rows
                if (r["method"], r["alpha"]) == (method, value)
            ]
            for value in values
        ]
        table.append((method, *(f"{mean(cell):.1f}" if cell else "" for cell in cells)))
    return markdown(("method", *(f"alpha {v}" if v else "without" for v in values)), table)
