"""Checks of options, the command that has them, and tables."""

import shlex

import pytest

from experiments.common.errors import UserError
from experiments.common.options import AT_LEAST_ONE, check, command, seeds
from experiments.common.tables import markdown


def test_a_range_names_the_option_and_the_value() -> None:
    check("num_matvecs", 1, AT_LEAST_ONE)
    with pytest.raises(UserError, match=r"^--num-matvecs must be .*, not 0\.$"):
        check("num_matvecs", 0, AT_LEAST_ONE)
    for wrong in ((-1,), (0, 2**32), (1, 1), ()):
        with pytest.raises(UserError, match=r"^--seeds must be "):
            seeds("seeds", wrong)


def test_a_command_has_what_is_given() -> None:
    line = command("experiments.speed", batch_size=8, data_dir=None, steps=("sam", "xsam, oja"))
    assert shlex.split(line)[3:] == ["--batch-size", "8", "--steps", "sam", "xsam, oja"]


def test_a_table_has_as_many_cells_in_every_line() -> None:
    lines = markdown(("a", "b", "c"), [("1", "", "3"), ("", "", "")]).splitlines()
    assert [line.count("|") for line in lines] == [4] * 4
    assert [cell.strip() for cell in lines[2].split("|")] == ["", "1", "", "3", ""]
