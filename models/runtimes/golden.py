"""Whether a loaded version still answers as it did when it was published.

Whoever loads a version, a worker above all, calls `check_golden` before it is used: another release
of a library, another processor or a half-read file may load without a word and answer otherwise.
Labels must be equal, numbers lie within the manifest's tolerance. Imports no numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import metadata
from itertools import islice
from typing import Any

from models.manifest import Golden, Manifest, Tolerance
from models.runtimes.base import Loaded
from yard.contract import Signature, wire
from yard.errors import ModelUnavailable, described

#: The answers in a manifest may take this many bytes: it travels through Redis.
MOST_BYTES = 2**17
#: What labels a row instead of measuring it: 1.0 is then a name, and 1.0000001 another.
_LABELLING = frozenset({"classifier", "clusterer", "outlier_detector"})
#: Characters of an answer that a message shows.
_SHOWN = 120


def check_golden(model: Loaded, manifest: Manifest) -> None:
    """Let ``model`` answer the example, and compare.

    Raises:
        ModelUnavailable: It raises, or answers otherwise: names output, row, both answers, and the
            libraries that are not those of publishing. Nothing is compared where the manifest has
            no golden answers, which those of earlier releases have not.
    """
    golden = manifest.golden
    if golden is None:
        return
    try:
        answers = model.predict(manifest.rows)
    except Exception as error:
        raise ModelUnavailable(
            f"{manifest.ref}: does not answer its example: {described(error)}{_otherwise(manifest)}"
        ) from error
    fault = next(differences(manifest.signature, golden, answers), None)
    if fault is not None:
        raise ModelUnavailable(
            f"{manifest.ref}: does not answer as it did when it was published: {fault}"
            f"{_otherwise(manifest)}"
        )


def differences(
    signature: Signature, golden: Golden, answers: Mapping[str, list[Any]]
) -> Iterator[str]:
    """What is wrong with ``answers``, a sentence for each output and row, in their order."""
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
    """Whether an output's answers must be equal, whatever their type."""
    output = next(output for output in signature.outputs if output.name == name)
    is_number = output.type in ("float64", "float32")
    return not is_number or (name == "predictions" and signature.task in _LABELLING)


def record(answers: Mapping[str, list[Any]], tolerance: Tolerance) -> Golden | None:
    """The answers as golden ones: of as many of the first rows as `MOST_BYTES` have room for.

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


def _otherwise(manifest: Manifest) -> str:
    """What is installed here in another version than when it was published."""
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
    said = repr(value)
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."
