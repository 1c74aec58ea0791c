"""Quantised versions: the weights of a version's ONNX form in 8 bits, where that helps.

`modelyard quantize` calls this. The graph is read from the store, rewritten in a child process
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
from models.formats import inspect_onnx
from models.manifest import File, Manifest
from models.publish.examine import SANDBOX, ReportProgress, limits_for, public_error
from models.publish.publisher import GRAPH, check_catalogue, installed_versions, register
from models.sandbox import ArtefactRefused, Limits, Quantized, SandboxError
from models.store import Repository
from yard.contract import ModelRef
from yard.errors import ConfigurationError, VersionExists


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """Result of a quantisation.

    Attributes:
        manifest: The new version; None where it was not worth one.
        reason: Why.
        before_bytes: The length of the original file.
        after_bytes: The length of the file with 8 bits.
        agreement: The part of the rows that are answered alike.
        rows: Number of rows that were compared.
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
        """Length of the original file relative to the new one."""
        return self.before_bytes / max(1, self.after_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report for programs; ``published`` is the new version's name, or null."""
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
    progress: ReportProgress = lambda line: None,
) -> QuantizeReport:
    """Makes ``new_version`` of ``version``, if it is worth it.

    Args:
        repository: The store.
        redis: Registers the new version there; None leaves that to `register_store`.
        model: The model's name.
        version: The version to make smaller.
        new_version: The name of the new version.
        rows: Rows to compare the answers on, as in a request; by default rows near the example.
        note: A sentence for people.
        limits: Limits of the child that writes it.
        progress: Called with each progress line.

    Raises:
        InvalidName: The name of the new version is invalid.
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
    quantized, graph = _quantize_in_sandbox(ref, request, raw, limits or Limits(), progress)
    manifest = None
    if quantized.decision.chosen:
        manifest = _manifest(known, new, quantized, graph, note)
        if redis is not None:
            check_catalogue(redis, new, manifest.file(), repository.location)
        repository.publish(manifest, {GRAPH: graph})
        if redis is not None:
            register(redis, manifest)
    return QuantizeReport(
        manifest=manifest,
        reason=quantized.decision.reason,
        before_bytes=quantized.before_bytes,
        after_bytes=quantized.after_bytes,
        agreement=quantized.agreement,
        rows=quantized.decision.rows,
        rows_per_s=quantized.decision.rows_per_s,
    )


def _quantize_in_sandbox(
    ref: ModelRef, request: Mapping[str, Any], raw: bytes, limits: Limits, progress: ReportProgress
) -> tuple[Quantized, bytes]:
    """Returns the child's comparison, and the graph that it made."""
    results: list[Any] = []
    with tempfile.TemporaryFile() as output:
        try:
            for line in SANDBOX.ask(
                "quantize", raw, limits_for(limits, len(raw)), output, **request
            ):
                if "progress" in line:
                    progress(str(line["progress"])[:200])
                elif "quantized" in line:
                    results.append(Quantized.model_validate(line["quantized"]))
        except ArtefactRefused as error:
            raise public_error(error, ref) from None
        except SandboxError as error:
            raise ConfigurationError(f"{ref}: cannot be made smaller: {error}") from None
        except ValidationError as error:
            raise ConfigurationError(f"{ref}: {error.errors()[0]['msg']}") from None
        if not results:
            raise ConfigurationError(f"{ref}: nothing came of it")
        output.seek(0)
        graph = output.read()
    inspect_onnx(graph)
    return results[-1], graph


def _manifest(
    known: Manifest, new: ModelRef, quantized: Quantized, graph: bytes, note: str
) -> Manifest:
    return manifests.build(
        model=new.model,
        version=new.version,
        format="onnx",
        runtime="onnx",
        files=(File.of(GRAPH, graph),),
        signature=known.signature,
        example=known.example,
        libraries=installed_versions({"numpy", "onnx", "onnxruntime"}),
        note=note or f"{known.ref} with weights in 8 bits.",
        golden=quantized.golden,
        compiled=quantized.decision,
        parent=str(known.ref),
    )
