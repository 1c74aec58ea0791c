"""Reports of publishing for people; programs get the manifest itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from models.manifest import Manifest
from models.publish import QuantizeReport

#: Most names that are shown.
_NAMES = 6


def published(manifest: Manifest, *, is_active: bool) -> str:
    """The report on a published version."""
    size = f"{manifest.size_bytes:,} bytes in {_files(manifest)}"
    lines = [f"published {manifest.ref}, {size}, digest {manifest.digest[:12]}"]
    lines += [f"  {name:<9}{said}" for name, said in _lines(manifest)]
    active = f"now, and it gets all of the traffic of {manifest.model}"
    if not is_active:
        active = f"no: modelyard activate {manifest.model} {manifest.version}"
    return "\n".join([*lines, f"  {'active':<9}{active}"])


def quantized(report: QuantizeReport) -> str:
    """The report on a version with weights of 8 bits, or the reason why none was made."""
    made = report.manifest
    head = f"published {made.ref}" if made else "nothing was made"
    lines = [
        f"{head}: {report.reason}",
        f"  {'size':<9}{report.before_bytes:,} bytes become {report.after_bytes:,}, "
        f"{report.times_smaller:.2f} times smaller",
        f"  {'answers':<9}{report.agreement:.2%} of {report.rows:,} rows alike",
        f"  {'speed':<9}{speed(report.rows_per_s)}",
    ]
    if made:
        lines.append(f"  {'active':<9}no: modelyard activate {made.model} {made.version}")
    return "\n".join(lines)


def speed(rows_per_s: Mapping[str, Mapping[str, float]]) -> str:
    """``1 row a call: 9,000 rows/s, were 4,000; 64: ...``."""
    one, other = rows_per_s.get("original", {}), rows_per_s.get("candidate", {})
    return "; ".join(
        f"{size} row{'s' if size != '1' else ''} a call: {other[size]:,.0f} rows/s, "
        f"were {one[size]:,.0f}"
        for size in one
        if size in other
    )


def _lines(manifest: Manifest) -> Iterator[tuple[str, str]]:
    signature = manifest.signature
    names = ", ".join(signature.names[:_NAMES])
    more = len(signature.names) - _NAMES
    yield "format", f"{manifest.format}, served by {manifest.runtime}"
    yield "task", manifest.task
    yield "inputs", f"{names}{f' and {more} more' if more > 0 else ''}"
    yield "outputs", ", ".join(signature.output_names)
    if signature.classes is not None:
        yield "classes", _shortened([str(name) for name in signature.classes])
    yield "batches", "yes" if manifest.batchable else f"no: {manifest.unbatchable_reason}"
    if manifest.golden is None:
        yield "proof", "none: one answer alone is too long to be kept"
    else:
        count = manifest.golden.count
        yield "proof", f"answers to {count} row{'s' * (count != 1)} that every worker compares with"
    yield from _compiled(manifest)


def _compiled(manifest: Manifest) -> Iterator[tuple[str, str]]:
    compiled = manifest.compiled
    if compiled is None:
        return
    is_used = compiled.candidate and manifest.runtime == compiled.candidate
    yield "compiled", f"{'yes' if is_used else 'no'}: {compiled.reason}"
    if compiled.rows_per_s:
        yield "speed", speed(compiled.rows_per_s)


def _shortened(names: list[str]) -> str:
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")


def _files(manifest: Manifest) -> str:
    return " and ".join(file.name for file in manifest.files)
