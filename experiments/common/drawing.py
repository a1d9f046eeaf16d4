"""Draw figures in one style, and write them and their numbers to files."""

import csv
import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.common.files import make_folder, write_atomically

# Okabe and Ito's colours, which colour-blind readers can tell apart; lines differ in their dashes
# and markers as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

Value = str | int | float | None


def style(line: int) -> dict[str, Any]:
    """The colour, dashes and markers of a line, another pair of the first two for 49 lines."""
    number = len(COLORS)
    return {
        "color": COLORS[line % number],
        "linestyle": DASHES[(line + line // number) % number],
        "marker": MARKERS[line % number],
        "markersize": 4,
    }


def new_figure(width: float, height: float, title: str, caption: str) -> Figure:
    """Make an empty figure with a title, and what was run in small type below it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=13)
    # About 14 of its letters fill an inch.
    figure.supxlabel(textwrap.fill(caption, int(13 * width)), fontsize=9, color="0.35")
    return figure


def png(figure: Figure, dpi: int = 110) -> bytes:
    """Render a figure as the content of a PNG file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=dpi)
    return image.getvalue()


def write_figure(figure: Figure, file: Path) -> None:
    """Write a figure as PNG.

    Raises:
        UserError: The folder cannot be written.
    """
    _write(file, png(figure))


def write_table(file: Path, header: Sequence[str], rows: Iterable[Sequence[Value]]) -> None:
    """Write numbers as CSV with six significant digits; None and what is not finite stay empty.

    Raises:
        UserError: The folder cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    _write(file, text.getvalue().encode())


def _cell(value: Value) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _write(file: Path, content: bytes) -> None:
    make_folder(file.parent)
    write_atomically(file, content)
    print(f"written to {file}", flush=True)
