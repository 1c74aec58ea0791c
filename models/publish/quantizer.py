"""A smaller version of a version: the weights of its ONNX form in 8 bits, where that helps.

`modelyard quantize` calls this. The graph is read from the store, written anew in a child process
(`models.optimize.int8_weights`), compared and timed there, and stored as a version of its own only
if it is smaller by a margin, answers alike within a bound, and its rows stay apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from redis import Redis

from models import manifest as manifests
from models.formats import onnx_check
from models.manifest import File, Manifest
from models.publish.examine import SANDBOX, Tell, grown, our_error
from models.publish.publisher import GRAPH, check_catalogue, libraries_of, register
from models.sandbox import ArtefactRefused, Limits, Quantized, SandboxError
from models.store import Repository
from yard.contract import ModelRef
from yard.errors import ConfigurationError, VersionExists


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """What came of it.

    Attributes:
        manifest: The new version; None where it was not worth one.
        reason: Why.
        before_bytes: The length of the file that was there.
        after_bytes: That of the file with 8 bits.
        agreement: The part of the rows that are answered alike.
        rows: How many rows were asked.
        rows_per_s: Of ``original`` and ``candidate``, by the rows in a call.
    """

    manifest: Manifest | None
    reason: str
    before_bytes: int
    after_bytes: int
    agreement: float
    rows: int
    rows_per_s: Mapping[str, Mapping[str, float]]

    @property
    def times_smaller(self) -> float:
        """How many times as long the first file is."""
        return self.before_bytes / max(1, self.after_bytes)

    def to_dict(self) -> dict[str, Any]:
        """The report for programs; ``published`` is the new version's name, or null."""
        return {
            "published": None if self.manifest is None else str(self.manifest.ref),
            "reason": self.reason,
            "before_bytes": self.before_bytes,
            "after_bytes": self.after_bytes,
            "agreement": self.agreement,
            "rows": self.rows,
            "rows_per_s": {name: dict(rates) for name, rates in self.rows_per_s.items()},
        }


def quantize(
    repository: Repository,
    redis: Redis | None,
    model: str,
    version: str,
    new_version: str,
    *,
    rows: Sequence[Any] | None = None,
    note: str = "",
    limits: Limits | None = None,
    progress: Tell = lambda line: None,
) -> QuantizeReport:
    """Make ``new_version`` of ``version``, if it is worth it.

    Args:
        repository: The store.
        redis: Where the new version becomes known; None leaves that to `register_store`.
        model: The model's name.
        version: What is made smaller.
        new_version: The name of what is made.
        rows: Rows to compare the answers on, as in a request; by default rows near the example.
        note: A sentence for people.
        limits: What the child that writes it may take.
        progress: Is told what is going on, a line at a time.

    Raises:
        InvalidName: The new version may not be called so.
        InvalidInput: A row does not fit the signature.
        NotFound: There is no such version.
        VersionExists: The new one is there.
        ConfigurationError: It has no ONNX form, nothing of it shrinks, or a limit was broken.
        ModelUnavailable: Its files are not those of its manifest.
        Unavailable: The new version is stored but not registered, because Redis is away.
    """
    ref, new = ModelRef(model, version), ModelRef(model, new_version)
    known = repository.manifest(ref)
    if new_version in repository.versions(model):
        raise VersionExists(f"{new} is published; a version never changes, so take a new name")
    if known.runtime != "onnx":
        why = f": {known.compiled.reason}" if known.compiled else ""
        raise ConfigurationError(
            f"{ref}: is not served as ONNX, and only that has weights in a form that shrinks{why}"
        )
    raw = repository.read(ref, GRAPH, expected=known)
    progress(f"writing the weights of {len(raw)} bytes of ONNX in 8 bits")
    request = {
        "signature": known.signature.model_dump(mode="json"),
        "example": list(known.example),
        "rows": None if rows is None else list(rows),
    }
    found, graph = _made(ref, request, raw, limits or Limits(), progress)
    manifest = None
    if found.decision.chosen:
        manifest = _manifest(known, new, found, graph, note)
        if redis is not None:
            check_catalogue(redis, new, manifest.file(), repository.location)
        repository.publish(manifest, {GRAPH: graph})
        if redis is not None:
            register(redis, manifest)
    return QuantizeReport(
        manifest=manifest,
        reason=found.decision.reason,
        before_bytes=found.before_bytes,
        after_bytes=found.after_bytes,
        agreement=found.agreement,
        rows=found.decision.rows,
        rows_per_s=found.decision.rows_per_s,
    )


def _made(
    ref: ModelRef, request: Mapping[str, Any], raw: bytes, limits: Limits, progress: Tell
) -> tuple[Quantized, bytes]:
    """What the child found, and the graph that it made."""
    said: list[Any] = []
    with tempfile.TemporaryFile() as made:
        try:
            for line in SANDBOX.ask("quantize", raw, grown(limits, len(raw)), made, **request):
                if "progress" in line:
                    progress(str(line["progress"])[:200])
                elif "quantized" in line:
                    said.append(Quantized.model_validate(line["quantized"]))
        except ArtefactRefused as error:
            raise our_error(error, ref) from None
        except SandboxError as error:
            raise ConfigurationError(f"{ref}: cannot be made smaller: {error}") from None
        except ValidationError as error:
            raise ConfigurationError(f"{ref}: {error.errors()[0]['msg']}") from None
        if not said:
            raise ConfigurationError(f"{ref}: nothing came of it")
        made.seek(0)
        graph = made.read()
    onnx_check.inspect(graph)
    return said[-1], graph


def _manifest(
    known: Manifest, new: ModelRef, found: Quantized, graph: bytes, note: str
) -> Manifest:
    return manifests.build(
        model=new.model,
        version=new.version,
        format="onnx",
        runtime="onnx",
        files=(File.of(GRAPH, graph),),
        signature=known.signature,
        example=known.example,
        libraries=libraries_of({"numpy", "onnx", "onnxruntime"}),
        note=note or f"{known.ref} with weights in 8 bits.",
        golden=found.golden,
        compiled=found.decision,
        parent=str(known.ref),
    )
