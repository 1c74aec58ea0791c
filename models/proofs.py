"""What was proven of a version when it was published, as its manifest holds it.

`models.publish.publisher` finds out: the example's answers, and whether a compiled form agrees and
is faster. `models.runtimes.golden` compares a loaded version with the first; people read the
second. Imports no numpy.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator


class Described(BaseModel):
    """A part of a manifest: frozen, strict, and blind to the fields of later releases."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Tolerance(Described):
    """How far a number may lie from what is expected: ``atol + rtol * abs(expected)``."""

    rtol: FiniteFloat = Field(default=0.0, ge=0)
    atol: FiniteFloat = Field(default=0.0, ge=0)


class Golden(Described):
    """What the example was answered with.

    Attributes:
        outputs: For each output an answer to each of the first rows of the example, to all of them
            unless they would take too much room.
        tolerance: For outputs that are numbers; labels must be equal.
    """

    outputs: dict[str, list[Any]] = Field(min_length=1)
    tolerance: Tolerance = Field(default_factory=Tolerance)

    @field_validator("outputs")
    @classmethod
    def _are_as_many(cls, outputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
        counts = {len(answers) for answers in outputs.values()}
        if len(counts) != 1 or 0 in counts:
            raise ValueError("must all have the same number of answers, and at least one")
        return outputs

    @property
    def count(self) -> int:
        """How many rows of the example have their answers here."""
        return len(next(iter(self.outputs.values())))


class Compiled(Described):
    """What came of converting the artefact to a faster form, and why.

    Attributes:
        candidate: The runtime of the form that was made, ``onnx``; "" where none was made.
        chosen: The runtime that serves.
        reason: Why, in a sentence.
        rows: Rows that both were asked: the example and rows made around it.
        disagreements: How many of them had another label, or a number beyond the tolerance.
        max_difference: The greatest difference of two numbers.
        tolerance: What was allowed.
        rows_per_s: Of ``original`` and ``candidate``, by the rows in a call: ``"1"`` and ``"64"``.
    """

    candidate: str = ""
    chosen: str
    reason: str = Field(max_length=2_000)
    rows: int = Field(default=0, ge=0)
    disagreements: int = Field(default=0, ge=0)
    max_difference: FiniteFloat = Field(default=0.0, ge=0)
    tolerance: Tolerance = Field(default_factory=Tolerance)
    rows_per_s: dict[str, dict[str, FiniteFloat]] = Field(default_factory=dict)
