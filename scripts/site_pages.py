"""Hooks of the site (scripts/site.yml): the pages are written for readers of the repository, and become a site's here.

README.md is the first page.  Files outside of docs/ that pages link to come along.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
HOME = ROOT / "README.md"

_LINK = re.compile(r"\]\(([^)#\s:]+)(#[^)\s]*)?\)")


def navigation() -> list[Any]:
    """Groups of pages, as docs/commands.md lists them under "All pages"."""
    text = (DOCS / "commands.md").read_text(encoding="utf-8").partition("\n## All pages\n")[2]
    nav: list[Any] = ["index.md", "commands.md"]
    for title, pages in re.findall(r"^### (.+)\n((?:(?!### ).*\n)*)", text, re.M):
        links = re.findall(r"^- \[[^]]*\]\(([^)]+)\)", pages, re.M)
        nav.append({title: [_place(DOCS / link) for link in links]})
    return nav


def _place(path: Path) -> str:
    """Where a file of the repository stands in the site."""
    path = Path(os.path.normpath(path))
    if path == HOME:
        return "index.md"
    return path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix()


def on_config(config: Any) -> Any:
    """Set the navigation."""
    config.nav = navigation()
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the first page, and all files outside of docs/ that a page links to, directly or through another one."""
    waiting, seen = [HOME, *DOCS.glob("*.md")], set()
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        if not path.is_relative_to(DOCS):
            files.append(File.generated(config, _place(path), abs_src_path=str(path)))
        if path.suffix == ".md":
            links = _LINK.findall(path.read_text(encoding="utf-8"))
            waiting += [Path(os.path.normpath(path.parent / link)) for link, _ in links]
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links lead to places in the site, and code blocks and nested lists are written as mkdocs reads them."""
    source, here = Path(page.file.abs_src_path), Path(page.file.src_uri).parent

    def lead(link: re.Match[str]) -> str:
        target = source.parent / link[1]
        if target.is_file():
            return f"]({Path(os.path.relpath(_place(target), here)).as_posix()}{link[2] or ''})"
        return link[0]

    markdown = re.sub(r"(?<!!)\[([^]]+)\]\(([^)#\s:]+)\)", lambda link: _without_folders(source, link), markdown)
    markdown = _LINK.sub(lead, markdown)
    # the library that draws charts would be loaded from a server; each chart has a table beside it
    markdown = re.sub(r"^```mermaid\n.*?^```\n", "", markdown, flags=re.M | re.S)
    markdown = re.sub(r"^( *```\w+)[^\n`]*$", r"\1", markdown, flags=re.M)  # ```bash long
    parts = re.split(r"^(```.*?^```$)", markdown, flags=re.M | re.S)  # code blocks, which stay as they are, are odd
    parts[::2] = [re.sub(r"^ {2,3}(?=\S)", "    ", part, flags=re.M) for part in parts[::2]]
    return "".join(parts)


def _without_folders(source: Path, link: re.Match[str]) -> str:
    """A link to a folder of the repository is its name alone."""
    return f"`{link[1]}`" if (source.parent / link[2]).is_dir() else link[0]
