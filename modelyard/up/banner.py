"""The text that `modelyard up` prints once it is ready: addresses and commands to paste."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from yard.broker import redact_url
from yard.registry import PublishedVersion


def banner(
    address: str, url: str, logs: Path, known: Sequence[PublishedVersion], took_s: float
) -> str:
    """Returns the text for a yard at ``address`` whose Redis is at ``url``.

    Args:
        address: ``http://127.0.0.1:8000``.
        url: Of Redis; its password is not shown.
        logs: Folder of the logs.
        known: The published versions; the line to try asks one of them.
        took_s: Seconds that the start took.
    """
    rows = [
        ("docs", f"{address}/docs"),
        *try_lines(address, known),
        ("Redis", redis_cli(url)),
        *_flip_lines(known),
        ("logs", str(logs)),
        ("stop", "Ctrl-C"),
    ]
    width = max(len(name) for name, _ in rows)
    lines = "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
    return f"\nModelyard is ready at {address} after {took_s:.1f} s.\n\n{lines}\n"


def try_lines(address: str, known: Sequence[PublishedVersion]) -> list[tuple[str, str]]:
    """A ``curl`` line with the first row of a version's example; of ``iris``, if published."""
    for entry in sorted(known, key=lambda entry: (entry.ref.model != "iris", entry.ref)):
        rows = entry.manifest.get("example")
        if isinstance(rows, list) and rows:
            body = json.dumps({"instances": rows[:1]}, ensure_ascii=False)
            url = f"{address}/v1/models/{entry.ref.model}/predict"
            kind = "Content-Type: application/json"
            return [("try", shlex.join(["curl", "-s", url, "-H", kind, "-d", body]))]
    return []


def redis_cli(url: str) -> str:
    """The ``redis-cli`` command that connects to ``url``, without its password."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return shlex.join(["redis-cli", "-s", unquote(parts.path)])
    return f"redis-cli -u {shlex.quote(redact_url(url))}"


def _flip_lines(known: Sequence[PublishedVersion]) -> list[tuple[str, Any]]:
    """A command that sends a model's traffic to another version, if a model has two."""
    by_model: dict[str, list[str]] = {}
    for entry in known:
        by_model.setdefault(entry.ref.model, []).append(entry.ref.version)
    models = [model for model, versions in by_model.items() if len(versions) > 1]
    model = "iris" if "iris" in models else next(iter(models), None)
    return [("flip", f"modelyard activate {model} {max(by_model[model])}")] if model else []
