"""Whether versions are still what was published: their bytes, and the answers that they give.

`modelyard verify` and the doctor ask. The bytes are read from the store itself, past what is kept
on this machine, and compared before anything is opened: opening some formats runs their code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from models.manifest import Manifest
from models.store import Repository
from yard.contract import ModelRef
from yard.errors import ModelUnavailable, ModelyardError, NotFound

#: How thoroughly to look: at manifests, at the digests of all files, or at answers, too.
Depth = Literal["manifest", "digests", "answers"]


@dataclass(slots=True)
class Verdict:
    """What was seen of one version.

    Attributes:
        ref: The version.
        digest: What its manifest says; None if that cannot be read.
        size_bytes: Of all its files, by its manifest.
        checked: What was looked at: ``manifest``, ``digests``, ``answers``.
        problems: What is wrong, a sentence each.
    """

    ref: ModelRef
    digest: str | None = None
    size_bytes: int | None = None
    checked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON shows it."""
        return {
            "model": self.ref.model,
            "version": self.ref.version,
            "ok": self.ok,
            "digest": self.digest,
            "size_bytes": self.size_bytes,
            "checked": self.checked,
            "problems": self.problems,
        }


def verify(repository: Repository, ref: ModelRef, depth: Depth = "answers") -> Verdict:
    """What is wrong with one version, if anything.

    Raises:
        UnknownModel: The store has no version of the model.
        UnknownVersion: It has others.
    """
    verdict = Verdict(ref)
    try:
        manifest = repository.manifest(ref)
    except NotFound:
        raise
    except ModelyardError as error:
        verdict.problems.append(error.message)
        return verdict
    verdict.digest, verdict.size_bytes = manifest.digest, manifest.size_bytes
    verdict.checked.append("manifest")
    if depth != "manifest":
        verdict.problems += _changed(repository, manifest)
        verdict.checked.append("digests")
    if depth == "answers" and verdict.ok:  # what was changed is not opened
        verdict.problems += _differs(repository, manifest)
        verdict.checked.append("answers")
    return verdict


def _changed(repository: Repository, manifest: Manifest) -> Iterator[str]:
    for file in manifest.files:
        try:
            repository.stored(manifest.ref, file)
        except ModelyardError as error:
            yield error.message


def _differs(repository: Repository, manifest: Manifest) -> Iterator[str]:
    from models.runtimes import load

    try:
        load(manifest, repository)  # which proves it
    except ModelUnavailable as error:
        yield error.message
