"""Upkeep of a store: garbage collection, export and import, verification."""

from models.maintenance import archive
from models.maintenance.gc import Garbage, find_garbage, remove_garbage
from models.maintenance.verification import Depth, Verdict, verify

__all__ = [
    "Depth",
    "Garbage",
    "Verdict",
    "archive",
    "find_garbage",
    "remove_garbage",
    "verify",
]
