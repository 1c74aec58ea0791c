"""Helpers of all tiers: servers, processes, stand-ins, tables, and waiting for a condition."""

from pathlib import Path

#: The folder that holds `tests`; in a checkout also the packages, `docs` and `deploy`.
ROOT = Path(__file__).absolute().parents[2]
