"""Equations as MathML, which browsers set themselves: the site needs no script and no network."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

# What pymdownx.arithmatex makes of $...$ and $$...$$.
_EQUATION = re.compile(
    r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', flags=re.DOTALL
)


def on_page_content(content: str, **_: Any) -> str:
    """Sets the equations of a page."""
    return _EQUATION.sub(_set, content)


def _set(equation: re.Match[str]) -> str:
    kind, latex = equation.groups()
    display = "block" if kind == "div" else "inline"
    return f"<{kind} class=equation>{convert(html.unescape(latex), display=display)}</{kind}>"
