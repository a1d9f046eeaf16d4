"""The rows of the measurement, and their table."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.common.tables import markdown
from experiments.speed.compilation import Compiled
from experiments.speed.steps import (
    BETWEEN,
    CHOSEN_BETWEEN,
    CHOSEN_REFRESH,
    ONE,
    PARTS,
    QUARTER,
    REFRESH,
    memory_first,
)

# A refresh in so many steps: X-SAM's published code, its command for CIFAR-10, Eigen-SAM's code.
PERIODS = (5, 3, 100)


class Row(NamedTuple):
    """What a step costs.

    Attributes:
        name: What was measured.
        fastest: Its fastest time relative to the fastest of optax.contrib.sam.
        ratio: Median over rounds of its time relative to optax.contrib.sam in the same round.
        quartiles: First and third quartile of these ratios.
        seconds: Median time.
        compiled: None for more than one step.
    """

    name: str
    fastest: float
    ratio: float
    quartiles: tuple[float, float]
    seconds: float
    compiled: Compiled | None

    def to_json(self) -> dict[str, Any]:
        """Turn the row into JSON values."""
        compiled = None if self.compiled is None else self.compiled._asdict()
        return self._asdict() | {"compiled": compiled}


def from_json(row: Mapping[str, Any]) -> Row:
    """Read a row that `Row.to_json` made."""
    compiled = row["compiled"]
    return Row(**dict(row) | {"compiled": None if compiled is None else Compiled(**compiled)})


def mean_of(period: int, refresh: float, between: float) -> float:
    """Average a cost over steps of which every ``period``-th has a refresh."""
    return between + (refresh - between) / period


def table(rows: list[Row]) -> str:
    """Format the rows, and what power iteration costs on average."""
    header = (
        *("step", "fastest", "median (quartiles)", "seconds"),
        *("compile s", "memory MiB", "GFLOP", "GB"),
    )
    lines: list[tuple[str, ...]] = []
    for row in rows:
        low, high = row.quartiles
        times = (
            f"{row.fastest:.2f}",
            f"{row.ratio:.2f} ({low:.2f}-{high:.2f})",
            f"{row.seconds:#.3g}",
        )
        compiled: tuple[str, ...] = ("",) * 4
        if row.compiled is not None:
            seconds, temporary, _, flops, moved = row.compiled
            compiled = f"{seconds:.1f}", f"{temporary:.0f}", f"{flops:.1f}", f"{moved:.2f}"
        lines.append((row.name, *times, *compiled))
    ratios = {row.name: row.ratio for row in rows}
    for refresh, between, how in (
        (REFRESH, BETWEEN, "q=5"),
        (ONE, BETWEEN, "q=1"),
        (QUARTER, BETWEEN, "q=5 on 1/4"),
        (PARTS, BETWEEN, "q=5 in 4 parts"),
        (CHOSEN_REFRESH, CHOSEN_BETWEEN, "q=5, two steps"),
        (memory_first(REFRESH), memory_first(BETWEEN), "q=5, memory first"),
    ):
        if refresh in ratios and between in ratios:
            for p in PERIODS:
                mean = mean_of(p, ratios[refresh], ratios[between])
                name = f"xsam, p={p} {how}, mean of {p} steps"
                lines.append((name, "", f"{mean:.2f}", *[""] * 5))
    return markdown(header, lines)
