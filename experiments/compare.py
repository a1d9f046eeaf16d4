"""Several training runs side by side: accuracy, loss, eigenvalue and angle over their epochs.

python -m experiments.compare runs/digits-mlp-sam-0 runs/digits-mlp-xsam-0
python -m experiments.compare runs/digits-mlp-* --out runs/digits

Reads what experiments.train has written, also of runs that are not finished; nothing is trained or
measured. Writes a picture, a table in Markdown and the numbers as CSV.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from experiments.common.drawing import Value, new_figure, style, write_figure, write_table
from experiments.common.errors import command_line, exit_on_user_error
from experiments.common.files import check_folder, write_atomically
from experiments.common.tables import markdown
from experiments.training.record import Record, about, cell, named, read_record
from experiments.training.run_folder import words_of

_COLUMNS = ("train_loss", "test_loss", "test_accuracy", "lambda_max", "angle")
_PANELS = {
    "test_accuracy": ("Test accuracy", "accuracy (%)"),
    "test_loss": ("Test loss; thin: training loss", "cross-entropy (nats)"),
    "lambda_max": (
        "Largest Hessian eigenvalue, training subset",
        r"$\lambda_{\max}$ (loss per squared parameter)",
    ),
    "angle": ("Angle between SAM's gradient and the top eigenvector", "angle (degrees)"),
}


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Put several training runs side by side."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    out: Path = Path("runs/comparison")
    """Folder of the picture and the tables."""


def line(name: str, run: Record) -> dict[str, Value]:
    """A run's line of the table, with the last value that was measured of everything."""
    last = {column: [x for _, x in points(run, column)][-1:] for column in _COLUMNS}
    return about(name, run) | {name: found[0] if found else None for name, found in last.items()}


def points(run: Record, column: str) -> list[tuple[int, float]]:
    """Epochs and values of a column, where it was measured and finite."""
    values = ((epoch.epoch, getattr(epoch, column)) for epoch in run.epochs)
    return [(epoch, value) for epoch, value in values if value is not None]


def write(out: Path, runs: Mapping[str, Record]) -> str:
    """Write compare.png, compare.md, compare.csv and compare_epochs.csv.

    Args:
        out: Their folder.
        runs: The runs by their names.

    Returns:
        The table in Markdown.
    """
    lines = [line(name, run) for name, run in runs.items()]
    tasks = dict.fromkeys(f"{r.config.model} on {r.config.dataset}" for r in runs.values())
    figure = new_figure(12, 8, "Training runs", ", ".join(tasks))
    for axes, column in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        _draw(axes, runs, column)
    if any(run.epochs for run in runs.values()):
        figure.axes[0].legend(fontsize=8)
    write_figure(figure, out / "compare.png")
    write_table(out / "compare.csv", list(lines[0]), ([*line.values()] for line in lines))
    write_table(
        out / "compare_epochs.csv",
        ("run", "epoch", *_COLUMNS),
        (
            (name, epoch.epoch, *(getattr(epoch, column) for column in _COLUMNS))
            for name, run in runs.items()
            for epoch in run.epochs
        ),
    )
    table = markdown(list(lines[0]), ([cell(value) for value in line.values()] for line in lines))
    text = f"# Training runs\n\n{table}\n\n![Curves](compare.png)\n"
    write_atomically(out / "compare.md", text.encode())
    return table


def _draw(axes: Axes, runs: Mapping[str, Record], column: str) -> None:
    title, label = _PANELS[column]
    for i, (name, run) in enumerate(runs.items()):
        if column == "test_loss" and (found := points(run, "train_loss")):
            axes.plot(*zip(*found, strict=True), color=style(i)["color"], linewidth=0.7, alpha=0.6)
        if found := points(run, column):
            label = name + words_of(run.continued_at)
            axes.plot(*zip(*found, strict=True), label=label, **style(i))
    axes.set(title=title, xlabel="epoch", ylabel=label)
    if column == "test_loss":
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        config = command_line(CompareConfig, "experiments.compare", __doc__)
        check_folder(config.out)
        runs = {name: read_record(out) for name, out in named(config.runs).items()}
        print(write(config.out, runs))


if __name__ == "__main__":
    main()
