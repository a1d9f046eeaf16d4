"""Docstrings, which are plain text in `help`, as Markdown: links, references and equations."""

from __future__ import annotations

import re
from typing import Any

import griffe

import xsam_jax
from xsam_jax import curvature

NAMES = {
    **{name: f"xsam_jax.curvature.{name}" for name in curvature.__all__},
    **{f"curvature.{name}": f"xsam_jax.curvature.{name}" for name in curvature.__all__},
    **{name: f"xsam_jax.{name}" for name in xsam_jax.__all__},
}
_LINK = re.compile(r"`([^`<]+?)\s+<(\S+?)>`_")
_NAME = re.compile(r"(?<!`)`([\w.]+)`(?!`)")
_EXAMPLE = re.compile(r"^Example:$", flags=re.MULTILINE)
_BLOCK = re.compile(r"::\n\n((?:    .*\n|\n)*    .*)")
# An equation's parts, as they are written in a line of text, and in LaTeX.
_PARTS = (
    (r"\|\|(.+?)\|\|", r"\\lVert \1 \\rVert"),
    (r"<(\w+), (\w+)>", r"\\langle \1, \2 \\rangle"),
    (r"\*\*(\w+)", r"^{\1}"),
    (r" \* ", r" \\, "),
    (r"<-", r"\\leftarrow"),
    (r"(\\lVert .+?\\rVert\S*)", r"{\1}"),
    (r"(\\langle .+? \\rangle|\w+) / ({\\lVert .+?\\rVert\S*?}(?=\s|$|\)))", r"\\frac{\1}{\2}"),
    (r"\b(alpha|eta|gamma|rho|sigma)\b", r"\\\1"),
    (r"\b(base|sign)\b", r"\\operatorname{\1}"),
    (r"\b(\w)_adv\b", r"\1_{\\mathrm{adv}}"),
)
_LABEL = re.compile(r"\s+(\(Eq\. [\d, ]+\))$")


class Docstrings(griffe.Extension):
    """Makes Markdown of every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """A docstring with its links, its references to public names, and its equations."""
    text = _LINK.sub(lambda link: f"[{' '.join(link[1].split())}]({link[2]})", text)
    text = _EXAMPLE.sub("Examples:", text)  # the section of that name is code
    text = _NAME.sub(lambda name: _reference(name[1]), text)
    return _BLOCK.sub(lambda block: ":\n\n" + _set(block[1]), text)


def _reference(name: str) -> str:
    public = NAMES.get(name.removeprefix("xsam_jax."))
    return f"[`{name}`][{public}]" if public else f"`{name}`"


def _set(block: str) -> str:
    """A block as equations, one a line, or as it is where it has more words than these."""
    rows = [latex(line.strip()) for line in block.splitlines() if line.strip()]
    if any(row is None for row in rows):
        return block
    aligned = " \\\\ ".join(row.replace("=", "&=", 1) for row in rows if row is not None)
    return f"$$\n\\begin{{align*}} {aligned} \\end{{align*}}\n$$"


def latex(line: str) -> str | None:
    """A line such as ``u = g_adv / ||g_adv||``, None where it has words that are no symbols."""
    label = _LABEL.search(line)
    line = _LABEL.sub("", line)
    for plain, set_ in _PARTS:
        line = re.sub(plain, set_, line)
    if re.search(r"(?<![\\A-Za-z{])[A-Za-z]{2,}", line):
        return None
    return line + (f" & \\text{{{label[1]}}}" if label else "")
