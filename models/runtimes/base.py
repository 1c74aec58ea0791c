"""What a runtime is: a module that loads a version, and the loaded version that predicts."""

from __future__ import annotations

from typing import Any, Protocol

from models.manifest import Manifest
from models.store import Repository
from yard.contract import Signature


class Loaded(Protocol):
    """A version that is ready to predict; safe for threads."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""

    @property
    def size_bytes(self) -> int:
        """The memory that it takes, measured."""

    def predict(self, rows: list[list[Any]]) -> dict[str, list[Any]]:
        """The outputs by name, each with one element for every row, in plain Python values.

        Args:
            rows: ``(rows, columns)``, checked against the signature.

        Raises:
            PredictFailed: A number is not finite, or there are not as many answers as rows.
            Exception: Whatever else the model raises, as it is.
        """


class RuntimeModule(Protocol):
    """What a module of `RUNTIMES` offers."""

    def load(self, manifest: Manifest, repository: Repository) -> Loaded:
        """The version, ready to predict."""
