"""The manifest of a version: its files, its signature, and how to run it.

`models.publish.publisher` writes it once; it is kept as ``manifest.json`` in the store and as a
field of Redis' catalogue. It pins each file by size and SHA-256, so a reader of the manifest can
check that bytes are the published ones. Imports no numpy.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    ValidationInfo,
    computed_field,
    field_validator,
)

from yard.contract import ModelRef, Signature, Task, check_name, check_rows, is_name, wire
from yard.errors import InvalidInput, InvalidJson, InvalidManifest, InvalidName, TooLarge

#: The manifest's own name in a version's folder.
MANIFEST = "manifest.json"
#: Bytes that a manifest may have: it travels through Redis with every read of the catalogue.
MOST_BYTES = 2**20
#: Rows that an example may have.
MOST_EXAMPLES = 100

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")


def artefact_name(format_: str) -> str:
    """Returns the name, in a version's folder, of the artefact or compiled form in this format."""
    return f"model.{format_}"


class FrozenModel(BaseModel):
    """A frozen, strict model, such as a part of a manifest; ignores fields of later releases."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Tolerance(FrozenModel):
    """Allowed difference from an expected number: ``atol + rtol * abs(expected)``."""

    rtol: FiniteFloat = Field(default=0.0, ge=0)
    atol: FiniteFloat = Field(default=0.0, ge=0)


class Golden(FrozenModel):
    """The answers to the example at publishing.

    Attributes:
        outputs: For each output, the answers to the first rows of the example; to all of them
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
        """Number of rows of the example that have answers here."""
        return len(next(iter(self.outputs.values())))


class Compiled(FrozenModel):
    """The outcome of converting the artefact to a faster form, and why.

    Attributes:
        candidate: The runtime of the form that was made, ``onnx``; "" where none was made.
        chosen: The runtime that serves.
        reason: Why, in a sentence.
        rows: Number of rows that both answered: the example and rows made around it.
        disagreements: Number of rows with another label, or a number beyond the tolerance.
        max_difference: The greatest difference of two numbers.
        tolerance: The tolerance of the comparison.
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


class File(FrozenModel):
    """One file of a version: its name in the version's folder, its size and its SHA-256."""

    name: str
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @field_validator("name")
    @classmethod
    def _is_plain(cls, name: str) -> str:
        if _FILE_NAME.fullmatch(name) is None or name == MANIFEST:
            raise ValueError(
                "must be 1 to 128 of A-Z a-z 0-9 . _ -, the first a letter or digit, "
                f"and not {MANIFEST}"
            )
        return name

    @classmethod
    def of(cls, name: str, content: bytes) -> File:
        """Returns the description of ``content``."""
        digest = hashlib.sha256(content).hexdigest()
        return cls(name=name, size_bytes=len(content), sha256=digest)


def digest_of(files: Iterable[File]) -> str:
    """Returns SHA-256 hex over canonical JSON of the files: by name, keys in order, no spaces."""
    known = [
        {"name": file.name, "sha256": file.sha256, "size_bytes": file.size_bytes}
        for file in sorted(files, key=lambda file: file.name)
    ]
    return hashlib.sha256(wire.dumps(known)).hexdigest()


class Manifest(FrozenModel):
    """One version, frozen.

    Attributes:
        model: The model's name.
        version: The version's name.
        format: The format of the published artefact: ``joblib``, ``skops`` or ``onnx``.
        runtime: The runtime that serves it: ``sklearn``, ``skops`` or ``onnx``.
        files: The published artefact first; a compiled form comes after it.
        digest: `digest_of` the files; two versions with one digest have the same bytes.
        signature: Its inputs and outputs.
        example: Rows that it answers, in the form of a request's ``instances``.
        libraries: The libraries it was published with, name to version, and ``python``.
        created_at: RFC 3339, UTC.
        note: A sentence for people.
        metrics: Measurements of it, say accuracy.
        batchable: True if a row's answer does not depend on the rows beside it, except for
            rounding.
        unbatchable_reason: Why it is not batchable; "" if it is.
        golden: The answers to the example; None in versions of earlier releases, and where one
            answer alone is too long.
        compiled: The decision about a faster form; None in versions of earlier releases.
        parent: The version that it was made from, ``model@version``; "" if it was published.
    """

    model: str
    version: str
    format: str = Field(pattern="^[a-z0-9][a-z0-9_]{0,31}$")
    runtime: str = Field(pattern="^[a-z0-9][a-z0-9_]{0,31}$")
    files: tuple[File, ...] = Field(min_length=1, max_length=64, strict=False)
    digest: str
    signature: Signature
    example: tuple[Any, ...] = Field(min_length=1, max_length=MOST_EXAMPLES, strict=False)
    libraries: dict[str, str] = Field(default_factory=dict)
    created_at: str
    note: str = Field(default="", max_length=2_000)
    metrics: dict[str, FiniteFloat] = Field(default_factory=dict)
    batchable: bool = True
    unbatchable_reason: str = Field(default="", max_length=2_000)
    golden: Golden | None = None
    compiled: Compiled | None = None
    parent: str = ""

    @field_validator("model", "version")
    @classmethod
    def _is_name(cls, name: str, info: ValidationInfo) -> str:
        try:
            return check_name(str(info.field_name), name)
        except InvalidName as error:
            raise ValueError(error.message) from None

    @field_validator("files")
    @classmethod
    def _are_distinct(cls, files: tuple[File, ...]) -> tuple[File, ...]:
        if len({file.name for file in files}) != len(files):
            raise ValueError("names a file twice")
        return files

    @field_validator("digest")
    @classmethod
    def _is_of_files(cls, digest: str, info: ValidationInfo) -> str:
        files = info.data.get("files")
        if files is not None and digest != digest_of(files):
            raise ValueError(f"is not that of the files, {digest_of(files)}")
        return digest

    @field_validator("example")
    @classmethod
    def _fits_signature(cls, example: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        signature = info.data.get("signature")
        if signature is not None:
            try:
                check_rows(signature, instances=example)
            except InvalidInput as error:
                raise ValueError(error.message) from None
        return example

    @field_validator("golden")
    @classmethod
    def _answers_example(cls, golden: Golden | None, info: ValidationInfo) -> Golden | None:
        signature, example = info.data.get("signature"), info.data.get("example")
        if golden is None or signature is None or example is None:
            return golden
        if golden.outputs.keys() != set(signature.output_names):
            raise ValueError(f"must have the outputs {', '.join(signature.output_names)}")
        if golden.count > len(example):
            raise ValueError(f"has {golden.count} answers to {len(example)} rows")
        return golden

    @field_validator("parent")
    @classmethod
    def _is_version(cls, parent: str) -> str:
        model, at, version = parent.partition("@")
        if parent and not (at and is_name(model) and is_name(version)):
            raise ValueError("must be like iris@v1, or empty")
        return parent

    @field_validator("created_at")
    @classmethod
    def _is_utc(cls, created_at: str) -> str:
        if _TIME.fullmatch(created_at) is None:
            raise ValueError("must be like 2026-01-02T03:04:05Z (RFC 3339, UTC)")
        datetime.fromisoformat(created_at)
        return created_at

    @computed_field(description="Kind of estimator, as the signature says.")  # type: ignore[prop-decorator]  # pydantic wants it so
    @property
    def task(self) -> Task:
        """Kind of estimator, as the signature says."""
        return self.signature.task

    @cached_property
    def ref(self) -> ModelRef:
        """The version that this describes."""
        return ModelRef(self.model, self.version)

    @cached_property
    def rows(self) -> list[list[Any]]:
        """The example as lists in signature order."""
        return check_rows(self.signature, instances=self.example)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    def file(self, name: str | None = None) -> File:
        """Returns the file of that name; for None the artefact, which is the first.

        Raises:
            InvalidManifest: There is none of that name.
        """
        for file in self.files:
            if name is None or file.name == name:
                return file
        raise InvalidManifest(f"manifest of {self.ref}: files: none is named {name!r}")

    def to_json(self) -> bytes:
        """Returns the manifest as canonical JSON: the same bytes for the same values.

        Raises:
            InvalidManifest: It would be longer than `MOST_BYTES`.
        """
        known = self.model_dump(mode="json")
        for mapping in ("libraries", "metrics"):
            known[mapping] = dict(sorted(known[mapping].items()))
        return _bounded(wire.dumps(known))

    @classmethod
    def parse(cls, raw: bytes) -> Manifest:
        """Parses the output of `to_json`; unknown fields are ignored.

        Raises:
            InvalidManifest: Naming the faulty field.
        """
        try:
            return cls.model_validate(wire.loads(_bounded(raw)))
        except (InvalidJson, TooLarge) as error:
            raise InvalidManifest(f"manifest: {error.message}") from None
        except ValidationError as error:
            raise InvalidManifest(f"manifest: {_first_fault(error)}") from None


def build(**fields: Any) -> Manifest:
    """Returns a manifest with its digest computed and ``created_at`` now unless given.

    Raises:
        InvalidManifest: Naming the faulty field.
    """
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    try:
        return Manifest(**{"digest": digest_of(fields["files"]), "created_at": now} | fields)
    except ValidationError as error:
        raise InvalidManifest(f"manifest: {_first_fault(error)}") from None


def _bounded(raw: bytes) -> bytes:
    if len(raw) > MOST_BYTES:
        raise InvalidManifest(f"manifest: has {len(raw)} bytes, the bound is {MOST_BYTES}")
    return raw


def _first_fault(error: ValidationError) -> str:
    """Returns ``files[0].sha256: String should match ...``, and how many more faults there are."""
    first, count = error.errors()[0], error.error_count()
    more = f" (and {count - 1} more)" if count > 1 else ""
    place = _place(first["loc"])
    msg = first["msg"].removeprefix("Value error, ")
    return f"{place}: {msg}{more}" if place else f"{msg}{more}"


def _place(loc: Sequence[str | int]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in loc).lstrip(".")
