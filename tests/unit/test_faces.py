"""Rooms of the house: what a folder does not name in its face is private to it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from yard.platform import extras

ROOT = extras.root()

#: Every folder of the second level, as ``worker.queue``.
ROOMS = sorted(
    f"{package}.{folder.name}"
    for package in extras.PACKAGES
    for folder in (ROOT / package).iterdir()
    if (folder / "__init__.py").exists()
)


def modules() -> Iterator[tuple[str, Path]]:
    for package in extras.PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def room_of(module: str) -> str:
    """``worker.queue`` of ``worker.queue.lease``; a module outside the rooms is of none."""
    room = ".".join(module.split(".")[:2])
    return room if room in ROOMS else ""


def imports(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, module and name of each ``from module import name`` of ours."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.lineno, node.module, alias.name


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: str(value)[-40:])
def test_a_module_takes_from_another_room_only_what_its_face_names(module: str, path: Path):
    strays = []
    for line, source, name in imports(path):
        room = room_of(source)
        if not room or room == room_of(module):
            continue
        if source != room or name not in import_module(room).__all__:
            strays.append(f"{path.name}:{line} takes {name} of {source}")
    assert not strays


@pytest.mark.parametrize("room", ROOMS)
def test_a_face_names_only_what_is_there(room: str):
    face = import_module(room)
    assert face.__doc__
    for name in getattr(face, "__all__", ()):
        try:
            getattr(face, name)
        except AttributeError:
            assert find_spec(f"{room}.{name}") is not None, name
