"""Writes `docs/manifest.schema.json` from `models.manifest`; ``--check`` only compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from models.manifest import Manifest

PAGE = Path(__file__).parent / "manifest.schema.json"
_HEAD = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Modelyard manifest",
    "description": "manifest.json in a version's folder, and a field of modelyard:versions:{model}",
}


def schema() -> str:
    """The schema of a manifest as it is written, JSON with a line for each member."""
    known = Manifest.model_json_schema(mode="serialization")
    return json.dumps(known | _HEAD, indent=2, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    """Exit status: 0, or 1 if the file was to be checked and is not up to date."""
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == schema():
        return 0
    if "--check" in arguments:
        sys.stderr.write("docs/manifest.schema.json is not up to date: run `make docs`\n")
        return 1
    PAGE.write_text(schema(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
