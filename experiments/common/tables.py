"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table.

    Args:
        header: Its columns' headings.
        rows: Cells in the order of the columns.

    Returns:
        The lines.
    """
    lines = [
        "|" + "".join(f" {cell} |" if cell else " |" for cell in row) for row in (header, *rows)
    ]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])
