"""The JSON schema of manifests that `docs` holds for other tools."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers import ROOT

SCHEMA = ROOT / "docs" / "manifest.schema.json"


def test_the_schema_in_docs_is_that_of_the_code():
    if not SCHEMA.exists():
        pytest.skip("no docs beside these tests")
    script = SCHEMA.parent / "write_manifest_schema.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True)
