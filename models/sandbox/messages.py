"""Messages of a sandbox child about an artefact, validated before they are used.

The child has run the artefact's code, so its messages are untrusted: all they can do is describe
the version, within the bounds of a manifest. Imports no numpy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from models.manifest import Compiled, FrozenModel, Golden
from yard.contract import Signature, wire


class ArtefactDescription(FrozenModel):
    """Description of an artefact.

    Attributes:
        kind: Its kind, for people: the class of an estimator.
        signature: Its inputs and outputs.
        libraries: The distributions that it needs to give the same answers.
        golden: Its answers to the example; None if one alone is too long.
        unbatchable_reason: Why its rows cannot be predicted together; "" if they can.
    """

    kind: str = Field(max_length=500)
    signature: Signature
    libraries: list[str] = Field(max_length=20)
    golden: Golden | None = None
    unbatchable_reason: str = Field(default="", max_length=2_000)


class Quantized(FrozenModel):
    """Comparison of a graph with weights of 8 bits with the one that it was made from.

    Attributes:
        decision: The figures, as of a compiled form; ``chosen`` is "" where it is not worth it.
        golden: Its answers to the example.
        before_bytes: The length of the file that it was made from.
        after_bytes: Its own length.
        agreement: The part of the rows whose labels, or numbers, stayed within the bound.
    """

    decision: Compiled
    golden: Golden | None
    before_bytes: int
    after_bytes: int
    agreement: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """A child's side of one question.

    Attributes:
        request: The task and its arguments.
        artefact: The bytes to open.
        answers: A pipe to the parent.
        output: A file that the parent reads afterwards.
    """

    request: dict[str, Any]
    artefact: bytes
    answers: int
    output: int

    def send(self, **answer: Any) -> None:
        """Sends a line: ``progress``, ``found``, ``compiled``, ``quantized`` or ``error``."""
        line = memoryview(wire.dumps(answer) + b"\n")
        while line:
            line = line[os.write(self.answers, line) :]

    def write_output(self, content: bytes) -> None:
        """Writes bytes for the parent; each call replaces those of the last."""
        os.lseek(self.output, 0, os.SEEK_SET)
        os.ftruncate(self.output, 0)
        left = memoryview(content)
        while left:
            left = left[os.write(self.output, left) :]
