"""Write the report of a benchmark: python -m experiments.benchmark.report DIR."""

from pathlib import Path
from typing import Annotated

import tyro

from experiments.benchmark.report.write import write_report
from experiments.common.errors import command_line, exit_on_user_error


def report(folder: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write report.md and report.html of a benchmark, finished or not.

    Args:
        folder: Its folder, with results.jsonl.
    """
    write_report(folder)
    print(f"written to {folder / 'report.html'}")


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        command_line(report, "experiments.benchmark.report")


if __name__ == "__main__":
    main()
