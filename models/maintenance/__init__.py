"""Upkeep of a store: garbage collection, export and import, verification."""

from models.maintenance import archive, gc
from models.maintenance.gc import Garbage
from models.maintenance.verification import Depth, Verdict, verify

__all__ = [
    "Depth",
    "Garbage",
    "Verdict",
    "archive",
    "gc",
    "verify",
]
