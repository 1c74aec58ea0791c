"""What a child process may say of an artefact: checked here before anything of it is believed.

The child has run the artefact's code, so its words are those of the artefact. All that they can do
is to describe the version, within the bounds of a manifest. Imports no numpy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from models.manifest import Compiled, Described, Golden
from yard.contract import Signature, wire


class Findings(Described):
    """What was found in an artefact.

    Attributes:
        kind: What it is, for people: the class of an estimator.
        signature: What it takes and gives.
        libraries: The distributions that it needs to answer as it does.
        golden: Its answers to the example; None if one alone is too long.
        unbatchable_reason: Why its rows cannot be predicted together; "" if they can.
    """

    kind: str = Field(max_length=500)
    signature: Signature
    libraries: list[str] = Field(max_length=20)
    golden: Golden | None = None
    unbatchable_reason: str = Field(default="", max_length=2_000)


class Quantized(Described):
    """How a graph with weights of 8 bits compares with the one that it was made from.

    Attributes:
        decision: The figures, as of a compiled form; ``chosen`` is "" where it is not worth it.
        golden: Its answers to the example.
        before_bytes: The length of the file that it was made from.
        after_bytes: Its own.
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
        request: What is asked.
        artefact: The bytes to open.
        answers: A pipe to the parent.
        made: A file that the parent reads afterwards.
    """

    request: dict[str, Any]
    artefact: bytes
    answers: int
    made: int

    def say(self, **answer: Any) -> None:
        """Send a line: ``progress``, ``found``, ``compiled``, ``quantized`` or ``error``."""
        line = memoryview(wire.dumps(answer) + b"\n")
        while line:
            line = line[os.write(self.answers, line) :]

    def keep(self, content: bytes) -> None:
        """Hand bytes over to the parent; those of the last call count."""
        os.lseek(self.made, 0, os.SEEK_SET)
        os.ftruncate(self.made, 0)
        left = memoryview(content)
        while left:
            left = left[os.write(self.made, left) :]
