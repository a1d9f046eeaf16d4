"""Write the tables of README, docs/ and results/ anew, from the files in results/.

python -m experiments.tables

A document says between which lines a table stands and where its numbers come from:

<!-- table: accuracy digits mlp sgd sam xsam -->
<!-- end -->

The first word is a function of experiments/tables, the others are its arguments. What stands
between the lines is replaced. The files are those of the checkout; nothing is measured.
"""

from pathlib import Path

from experiments.common.errors import command_line, exit_on_user_error
from experiments.common.files import write_atomically
from experiments.tables.documents import documents, refreshed


def tables() -> None:
    """Write the tables anew and name the documents that changed."""
    root = Path(__file__).parents[2]
    for file in documents(root):
        before = file.read_text()
        after = refreshed(before, root / "results", str(file.relative_to(root)))
        if after != before:
            write_atomically(file, after.encode())
            print(f"written to {file.relative_to(root)}")


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        command_line(tables, "experiments.tables", __doc__)


if __name__ == "__main__":
    main()
