"""A tutorial's cells, and what becomes of them."""

from pathlib import Path

import pytest
from mkdocs.exceptions import PluginError

from website.tutorials import cells, run

SOURCE = '''"""Not a cell."""
# %% [markdown]
# # Title
#
# See [another](other.py).

# %%
from matplotlib import pyplot as plt
x = 2
print("x is", x)

# %%
plt.figure(num="A line").gca().plot([0, x])
'''
FILE = Path("a.py")


def test_cells() -> None:
    text, first, second = cells(SOURCE)
    assert text == (True, "# Title\n\nSee [another](other.py).", 2)
    assert SOURCE.splitlines()[first.line] == "from matplotlib import pyplot as plt"
    assert not first.is_text
    assert not second.is_text


def test_page_has_text_code_output_and_picture_in_order() -> None:
    page, (picture,) = run(SOURCE, FILE)
    parts = ("# Title", "print(", "\nx is 2\n", "plt.figure(", "![A line](a-0.svg)")
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    assert b"<svg" in picture.svg


def test_cell_that_fails_ends_the_build_and_names_its_line() -> None:
    with pytest.raises(PluginError, match=r"(?s)a\.py.*line 10,.*ZeroDivisionError") as caught:
        run(SOURCE.replace('print("x is", x)', "1 / 0"), FILE)
    assert caught.value.__cause__ is not None
