"""Lua scripts as functions: loaded once, run by digest, one round trip a call.

Scripts that several parts call are in ``yard/scripts``, those of one end of the queue in
``producer/scripts`` and ``worker/scripts``. Each begins with the keys and arguments that it takes.
A line ``--- use NAME`` includes ``NAME.lua`` of the same folder or of ``yard/scripts``. Every
script sees the key families of `yard.contract.keys` as the table ``K``, so that no key is spelled
twice.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError

from yard.contract import keys

ScriptArgument = str | bytes | int | float

_CONSTANT = re.compile(r"\bK\.(\w+)")
_USE = re.compile(r"^--- use (\w+)\n", re.MULTILINE)


class Script:
    """One Lua script, ready to be called.

    Args:
        package: The package that has a folder ``scripts``.
        name: The file's name without ``.lua``.
        before: Scripts to load before this one: a server that knows this one knows them, unless its
            scripts were flushed.
    """

    def __init__(self, package: str, name: str, before: Sequence[Script] = ()) -> None:
        self.name = name
        self._before = before
        text = _read(package, name)
        self.source = _constants(text) + text
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, redis: Redis, arguments: Sequence[ScriptArgument]) -> Any:
        """Runs the script; loads it first on a server that is new or was restarted."""
        try:
            return redis.evalsha(self.sha, 0, *arguments)
        except NoScriptError:
            for script in self._before:
                redis.script_load(script.source)
            return redis.eval(self.source, 0, *arguments)

    def command(self, arguments: Sequence[ScriptArgument]) -> tuple[ScriptArgument, ...]:
        """Returns the command that runs it on a server that knows it, for a caller's pipeline."""
        return ("EVALSHA", self.sha, 0, *arguments)


def _constants(text: str) -> str:
    """The part of the table ``K`` that ``text`` uses: each call of the script makes it again."""
    used = set(_CONSTANT.findall(text))
    names = [f"{name}='{value}'" for name, value in (keys.PREFIXES | keys.SINGLES).items()]
    numbers = [f"{name}={value}" for name, value in keys.NUMBERS.items()]
    kept = [entry for entry in names + numbers if entry.partition("=")[0] in used]
    return "local K = {" + ",".join(kept) + "}\n"


def _read(package: str, name: str, seen: frozenset[str] = frozenset()) -> str:
    """The file's text with the files that it uses in place, each once."""
    file = files(package).joinpath("scripts", f"{name}.lua")
    if not file.is_file():
        file = files("yard").joinpath("scripts", f"{name}.lua")
    text = file.read_text(encoding="utf-8")
    included = set(seen)

    def pull(match: re.Match[str]) -> str:
        used = match.group(1)
        if used in included:
            return ""
        included.add(used)
        return _read(package, used, frozenset(included)) + "\n"

    return _USE.sub(pull, text)
