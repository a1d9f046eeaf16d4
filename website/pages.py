"""The repository's documents as pages, in its own folders: a link that works there works here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# What pages are made of, show, or link to.
PATTERNS = (
    "*.md",
    "docs/**/*.md",
    "results/**/*.md",
    "results/**/*.png",
    "results/**/*.csv",
    "results/**/*.json",
    "website/*.css",
    "website/*.js",
)
_LINK = re.compile(r"(?<=\]\()[^)#:\s]+(?=\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replaces the patterns in the navigation by the files that they match."""
    config.nav = expanded(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Takes the documents of the whole repository in place of those in docs/ alone."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for pattern in PATTERNS:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Leads a link to a folder to the README there, and one to a tutorial to its page."""
    folder = (ROOT / page.file.src_uri).parent

    def target(link: re.Match[str]) -> str:
        path = folder / link[0]
        if path.is_dir():
            return f"{link[0].rstrip('/')}/README.md"
        return link[0].removesuffix(".py") + ".md" if is_tutorial(path) else link[0]

    return _LINK.sub(target, markdown)


def is_tutorial(path: Path) -> bool:
    """Whether it is a program that has a page."""
    return path.suffix == ".py" and path.parent.name == "tutorials"


def expanded(nav: Any) -> Any:
    """A navigation whose ``folder/*.md`` are replaced by the files there."""
    if isinstance(nav, dict):
        return {title: expanded(entry) for title, entry in nav.items()}
    if not isinstance(nav, list):
        return nav
    found = []
    for entry in nav:
        if isinstance(entry, str) and "*" in entry:
            found += [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob(entry))]
        else:
            found.append(expanded(entry))
    return found
