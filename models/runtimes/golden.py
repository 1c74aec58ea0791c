"""Golden answers: proof that a loaded version still answers as it did at publishing.

Callers that load a version, workers above all, call `check_golden` before they use it: with another
release of a library, another processor or a half-read file, a version may load without an error and
give other answers. Labels must be equal, numbers lie within the manifest's tolerance. Imports no
numpy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from itertools import islice
from typing import Any, NamedTuple

from models.manifest import Golden, Manifest, Tolerance
from models.runtimes.base import Loaded
from yard.contract import Signature, wire
from yard.errors import ModelUnavailable, described

#: Bytes that the answers in a manifest may take: it travels through Redis.
MOST_BYTES = 2**17
#: Tasks that label a row instead of measuring it: 1.0 is then a name, and 1.0000001 another.
_LABELLING = frozenset({"classifier", "clusterer", "outlier_detector"})
#: Seconds that the proof of a slow version may take, beyond a first row.
_PROOF_S = 2.0
#: Characters of an answer that a message shows.
_SHOWN = 120


class Proof(NamedTuple):
    """A predict of a version that has just been loaded, as a first measure of its speed.

    Attributes:
        rows: Its rows.
        seconds: What it took.
    """

    rows: int
    seconds: float


def check_golden(model: Loaded, manifest: Manifest) -> Proof | None:
    """Predicts the example with ``model`` and compares the answers.

    A row is predicted first. Where it takes long, and rows do not depend on each other, only so
    many are compared as take `_PROOF_S`.

    Returns:
        The time of the proof; None without golden answers.

    Raises:
        ModelUnavailable: It raises, or gives other answers: names output, row, both answers, and
            the libraries that are not those of publishing. Nothing is compared where the manifest
            has no golden answers, as in those of earlier releases.
    """
    golden = manifest.golden
    if golden is None:
        return None
    rows, outputs = manifest.rows, golden.outputs
    try:
        started = time.perf_counter()
        answers = model.predict(rows[:1])
        proof = Proof(1, time.perf_counter() - started)
        if manifest.batchable and proof.seconds * len(rows) > _PROOF_S:
            rows = rows[: max(1, int(_PROOF_S / proof.seconds))]
            outputs = {name: values[: len(rows)] for name, values in outputs.items()}
        if len(rows) > 1:
            started = time.perf_counter()
            answers = model.predict(rows)
            proof = Proof(len(rows), time.perf_counter() - started)
    except Exception as error:
        raise ModelUnavailable(
            f"{manifest.ref}: does not answer its example: {described(error)}"
            f"{_library_differences(manifest)}"
        ) from error
    compared = golden.model_copy(update={"outputs": outputs})
    fault = next(differences(manifest.signature, compared, answers), None)
    if fault is not None:
        raise ModelUnavailable(
            f"{manifest.ref}: does not answer as it did when it was published: {fault}"
            f"{_library_differences(manifest)}"
        )
    return proof


def differences(
    signature: Signature, golden: Golden, answers: Mapping[str, list[Any]]
) -> Iterator[str]:
    """Yields a sentence for each wrong output and row of ``answers``, in their order."""
    for name, expected in golden.outputs.items():
        got = answers.get(name, [])
        if len(got) < len(expected):
            yield f"output {name!r} has {len(got)} answers, expected are {len(expected)}"
            continue
        tolerance = None if are_labels(signature, name) else golden.tolerance
        for row, (wanted, given) in enumerate(zip(expected, got, strict=False)):
            if not _is_same(wanted, given, tolerance):
                yield (
                    f"output {name!r}, row {row}: expected {_short(wanted)}, got {_short(given)}"
                )


def are_labels(signature: Signature, name: str) -> bool:
    """True if an output's answers must be equal, whatever their type."""
    output = next(output for output in signature.outputs if output.name == name)
    is_number = output.type in ("float64", "float32")
    return not is_number or (name == "predictions" and signature.task in _LABELLING)


def record_golden(answers: Mapping[str, list[Any]], tolerance: Tolerance) -> Golden | None:
    """Returns golden answers for as many of the first rows as fit into `MOST_BYTES`.

    Returns:
        None if a single row's answer is too long.
    """
    rows = zip(*answers.values(), strict=True)
    left, count = MOST_BYTES, 0
    for row in rows:
        left -= len(wire.dumps(row))
        if left < 0:
            break
        count += 1
    if count == 0:
        return None
    outputs = {name: list(islice(listed, count)) for name, listed in answers.items()}
    return Golden(outputs=outputs, tolerance=tolerance)


def _is_same(wanted: Any, given: Any, tolerance: Tolerance | None) -> bool:
    if isinstance(wanted, list):
        return (
            isinstance(given, list)
            and len(wanted) == len(given)
            and all(
                _is_same(one, other, tolerance) for one, other in zip(wanted, given, strict=True)
            )
        )
    if tolerance is None or not isinstance(given, int | float):
        return bool(wanted == given)
    allowed = tolerance.atol + tolerance.rtol * abs(wanted)
    return bool(abs(wanted - given) <= allowed)  # False where one is not a number


def _library_differences(manifest: Manifest) -> str:
    """Returns the libraries whose version here is not that of publishing, as text."""
    others = [
        f"{name} {published}, here is {here}"
        for name, published in sorted(manifest.libraries.items())
        if name != "python" and (here := _installed(name)) not in (None, published)
    ]
    return f"; published with {'; '.join(others)}" if others else ""


def _installed(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
