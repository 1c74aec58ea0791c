"""Verification of published versions: their bytes, and the answers that they give.

`modelyard verify` and the doctor call it. The bytes are read from the store itself, past the cache
of this machine, and compared before a file is opened: opening some formats runs their code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from models.manifest import Manifest
from models.store import Repository
from yard.contract import ModelRef
from yard.errors import ModelUnavailable, ModelyardError, NotFound

#: Depth of a verification: manifests, the digests of all files, or the answers, too.
Depth = Literal["manifest", "digests", "answers"]


@dataclass(slots=True)
class Verdict:
    """The result for one version.

    Attributes:
        ref: The version.
        digest: The digest in its manifest; None if that cannot be read.
        size_bytes: Of all its files, by its manifest.
        checked: Completed checks: ``manifest``, ``digests``, ``answers``.
        problems: What is wrong, a sentence each.
    """

    ref: ModelRef
    digest: str | None = None
    size_bytes: int | None = None
    checked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Returns the verdict as JSON shows it."""
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
    """Returns what is wrong with one version, if anything.

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
        verdict.problems += _digest_problems(repository, manifest)
        verdict.checked.append("digests")
    if depth == "answers" and verdict.ok:  # a changed file is not opened
        verdict.problems += _answer_problems(repository, manifest)
        verdict.checked.append("answers")
    return verdict


def _digest_problems(repository: Repository, manifest: Manifest) -> Iterator[str]:
    for file in manifest.files:
        try:
            repository.read_from_store(manifest.ref, file)
        except ModelyardError as error:
            yield error.message


def _answer_problems(repository: Repository, manifest: Manifest) -> Iterator[str]:
    from models.runtimes import load

    try:
        load(manifest, repository)  # checks the golden answers
    except ModelUnavailable as error:
        yield error.message
