"""Docstrings as Markdown."""

import re
from pathlib import Path

import pytest

import xsam_jax
from website.docstrings import latex, markdown
from xsam_jax import curvature

API = Path(__file__).parent.parent.parent / "docs" / "api"


def test_every_public_name_stands_on_one_page() -> None:
    pages = "\n".join(file.read_text() for file in API.glob("*.md"))
    public = {f"xsam_jax.{name}" for name in xsam_jax.__all__}
    public |= {f"xsam_jax.curvature.{name}" for name in curvature.__all__}
    assert sorted(re.findall(r"^::: (\S+)$", pages, re.MULTILINE)) == sorted(public)


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        (
            "see `sam`, ``sam`` and `optax.sgd`",
            "see [`sam`][xsam_jax.sam], ``sam`` and `optax.sgd`",
        ),
        ("`curvature.hvp`", "[`curvature.hvp`][xsam_jax.curvature.hvp]"),
        ("`A\n paper <https://a.b/c>`_, 2020", "[A paper](https://a.b/c), 2020"),
        ("Example:\n  >>> 1", "Examples:\n  >>> 1"),
    ],
)
def test_references_and_links(plain: str, expected: str) -> None:
    assert markdown(plain) == expected


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ("d = g - alpha * v", r"d = g - \alpha \, v"),
        ("a = ||g_adv||**2", r"a = {\lVert g_{\mathrm{adv}} \rVert^{2}}"),
        ("a = <u, v> / ||v||", r"a = \frac{\langle u, v \rangle}{{\lVert v \rVert}}"),
        ("u = v    (Eq. 9)", r"u = v & \text{(Eq. 9)}"),
        ("U = orth(M), rotated", None),
    ],
)
def test_equations(plain: str, expected: str | None) -> None:
    assert latex(plain) == expected


def test_block_with_other_words_stays_as_it_is() -> None:
    block = "so::\n\n    M = orth(N)\n\nand on"
    assert markdown(block) == block.replace("::", ":")
