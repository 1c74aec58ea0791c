"""Links and names in the docs, docstrings and comments: all lead somewhere."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.helpers import ROOT
from yard.platform import extras

pytestmark = pytest.mark.skipif(
    not (ROOT / "docs").is_dir(), reason="the docs are not there: this is an installed package"
)

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = sorted(
    path
    for package in extras.PACKAGES
    for suffix in ("py", "lua")
    for path in (extras.root() / package).rglob(f"*.{suffix}")
)
SCRIPTS = {path.name for path in SOURCES if path.suffix == ".lua"}

_FOLDERS = (*extras.PACKAGES, "docs", "deploy", "tests", "bench", "locks")

_LINK = re.compile(r"\]\(([^()\s]+)\)")
_QUOTED = re.compile(r"(?<!`)(`{1,2})([\w./@-]+)\1(?!`)")
_DOTTED = re.compile(rf"(?:{'|'.join(extras.PACKAGES)})(?:\.\w+)+")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)

_SCRIPT = re.compile(r"[a-z_]+\.lua")
_IMPORT = re.compile(
    rf"^\s*from ((?:{'|'.join(extras.PACKAGES)})[\w.]*) import (.+)$", re.MULTILINE
)

#: Names of files, not of modules: a user's own, and that of the running yard.
_FILES = frozenset({"models.py", "worker.py", "yard.json"})


def offenders(paths: list[Path], faults: Callable[[Path, str], Iterator[tuple[int, str]]]) -> str:
    """Every fault of every file, one a line: ``docs/http.md:12: ...``."""
    found = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        for position, fault in faults(path, text):
            base = ROOT if path.is_relative_to(ROOT) else extras.root()
            line = text.count("\n", 0, position) + 1
            found.append(f"{path.relative_to(base)}:{line}: {fault}")
    return "\n".join(found)


def broken_links(page: Path, text: str) -> Iterator[tuple[int, str]]:
    for link in _LINK.finditer(text):
        target, _, anchor = link[1].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists():
            yield link.start(), f"no file {link[1]}"
        elif anchor and anchor not in anchors(path):
            yield link.start(), f"no heading #{anchor} in {path.name}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(text))
    return {heading.strip().replace(" ", "-") for heading in kept}


def dangling_names(_: Path, text: str) -> Iterator[tuple[int, str]]:
    for quoted in _QUOTED.finditer(text):
        name = quoted[2]
        if not exists(name):
            yield quoted.start(), f"no {name}"


def broken_imports(_: Path, text: str) -> Iterator[tuple[int, str]]:
    for line in _IMPORT.finditer(text):
        for name in re.split(r",\s*", line[2]):
            if not resolves(f"{line[1]}.{name}"):
                yield line.start(), f"no {name} in {line[1]}"


def exists(name: str) -> bool:
    """False for a path, a script, a module or an attribute of ours that is not there."""
    if _SCRIPT.fullmatch(name):
        return name in SCRIPTS
    if "/" in name:
        is_ours = name.split("/")[0] in _FOLDERS
        return not is_ours or (ROOT / name).exists() or (extras.root() / name).exists()
    if _DOTTED.fullmatch(name) and name not in _FILES:
        return resolves(name)
    return True


def resolves(name: str) -> bool:
    """``package.module``, or that and attributes of it."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        path = extras.root().joinpath(*parts[:count])
        if path.is_dir() or path.with_suffix(".py").is_file():
            try:
                module = import_module(".".join(parts[:count]))
            except ImportError:
                return False
            return has_attributes(module, parts[count:])
    return False


def has_attributes(owner: Any, names: list[str]) -> bool:
    for name in names:
        if hasattr(owner, name):
            owner = getattr(owner, name)
        elif isinstance(owner, ModuleType):
            return False
        else:  # a field of a class, which only its instances have
            return re.search(rf"\b(self\.)?{name}\b", inspect.getsource(owner)) is not None
    return True


def test_every_link_in_the_docs_leads_to_a_file_and_a_heading():
    assert offenders(PAGES, broken_links) == ""


def test_every_name_of_ours_in_the_docs_is_there():
    assert offenders(PAGES, dangling_names) == ""


def test_every_import_in_the_docs_works():
    assert offenders(PAGES, broken_imports) == ""


def test_every_name_of_ours_in_docstrings_and_comments_is_there():
    assert offenders(SOURCES, dangling_names) == ""


def test_the_glossary_has_each_word_once_in_order():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)[1:]
    assert words == sorted(set(words))
