"""Interfaces of a runtime: a module that loads a version, and the loaded version."""

from __future__ import annotations

from typing import Any, Protocol

from models.manifest import Manifest
from models.store import Repository
from yard.contract import Signature


class Loaded(Protocol):
    """A version that is ready to predict; safe for threads."""

    @property
    def signature(self) -> Signature:
        """Its inputs and outputs."""

    @property
    def size_bytes(self) -> int:
        """Bytes of memory that it takes, measured."""

    def predict(self, rows: list[list[Any]]) -> dict[str, list[Any]]:
        """Returns the outputs by name, each with one element for every row, in plain Python values.

        Args:
            rows: ``(rows, columns)``, checked against the signature.

        Raises:
            PredictFailed: A number is not finite, or there are not as many answers as rows.
            Exception: Any other error of the model, as it is.
        """


class RuntimeModule(Protocol):
    """Interface of the modules of `RUNTIMES`."""

    def load(self, manifest: Manifest, repository: Repository) -> Loaded:
        """Returns the version, ready to predict."""
