"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table.

    Args:
        header: Its columns' headings.
        rows: Cells in the order of the columns.

    Returns:
        The lines.
    """

    def line(cells: Sequence[str]) -> str:
        return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)

    return "\n".join(map(line, (header, ["---"] * len(header), *rows)))
