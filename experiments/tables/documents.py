"""Documents, and the places of their tables."""

import re
from collections.abc import Callable
from inspect import Parameter, signature
from pathlib import Path

from experiments.common.errors import UserError
from experiments.tables import benchmarks, figures, measurements, speed

# The first word of a place; the function is given the folder of results and the other words.
TABLES: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        benchmarks.accuracy,
        benchmarks.pooled,
        benchmarks.learning_rates,
        benchmarks.sizes,
        measurements.tracking,
        measurements.tracking_in_evaluation,
        measurements.curvature,
        measurements.rates,
        figures.angles,
        figures.changes,
        figures.curves,
        figures.spectrum,
        figures.alpha,
        speed.cost,
        speed.ratios,
        speed.published,
        speed.beside,
        speed.shapes,
        speed.planned,
        speed.kernels,
        speed.allocator,
    )
}
_BEGIN, _END = "<!-- table: ", "<!-- end -->"
_PLACE = re.compile(rf"^{_BEGIN}(.*) -->\n(?:(?!{_BEGIN}|{_END}).*\n)*{_END}$", re.MULTILINE)


def documents(root: Path) -> list[Path]:
    """List the documents that may have tables."""
    return [
        root / "README.md",
        *sorted(root.glob("docs/**/*.md")),
        *sorted(root.glob("results/*/*.md")),
    ]


def refreshed(text: str, results: Path, name: str) -> str:
    """Write the tables of a document anew.

    Args:
        text: The document.
        results: Folder of the results.
        name: The document's name, for errors.

    Returns:
        The document with the tables that the files in the folder give.

    Raises:
        UserError: A place has no end, names no table, or wants what the files do not have.
    """
    after, places = _PLACE.subn(lambda place: _filled(place[1], results, name), text)
    if places != text.count(_BEGIN):
        raise UserError(f"{name}: a table's place has no end, which is a line {_END}")
    return after


def _filled(place: str, results: Path, name: str) -> str:
    function, *words = place.split()
    table = TABLES.get(function)
    if table is None:
        raise UserError(f"{name}: there is no table {function}, only {', '.join(TABLES)}.")
    try:
        signature(table).bind(results, *words)
    except TypeError:
        wanted = " ".join(map(_argument, [*signature(table).parameters.values()][1:]))
        raise UserError(f"{name}: it must be table: {function} {wanted}, not {place}.") from None
    try:
        content = table(results, *words)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{name}: results/ has nothing for table: {place} ({error}).") from None
    return f"{_BEGIN}{place} -->\n{content}\n{_END}"


def _argument(parameter: Parameter) -> str:
    several = "..." if parameter.kind is Parameter.VAR_POSITIONAL else ""
    return f"{parameter.name.upper()}{several}"
