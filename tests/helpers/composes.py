"""A reader of docker-compose.yml: anchors merged, variables replaced by their defaults."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.helpers import ROOT

#: The checkout; the tests of an installed wheel run without one.
DEPLOY = ROOT / "deploy"

needs_deploy = pytest.mark.skipif(not DEPLOY.is_dir(), reason="no checkout: deploy/ is not here")


def services() -> dict[str, dict[str, Any]]:
    """Every service by its name."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(interpolated(text))["services"]
    return found


def interpolated(text: str) -> str:
    """``${NAME:-default}`` -> ``default``."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def seconds(text: str) -> float:
    """``1m30s`` -> 90."""
    units = {"s": 1, "m": 60, "h": 3600}
    return sum(int(n) * units[unit] for n, unit in re.findall(r"(\d+)([smh])", text))
