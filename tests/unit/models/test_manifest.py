"""The manifest: `parse` reads what `to_json` writes, and a faulty one names its faulty field."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.manifest import MOST_BYTES, File, Manifest, build, digest_of
from tests.helpers.stand_ins import IRIS, ROW, TEXT
from yard.contract.values import ModelRef
from yard.errors import InvalidManifest

WEIGHTS = File.of("model.joblib", b"weights")


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "model": "iris",
        "version": "v1",
        "format": "joblib",
        "runtime": "sklearn",
        "files": (WEIGHTS,),
        "signature": IRIS,
        "example": (ROW,),
        "libraries": {"scikit-learn": "1.9.1"},
        "created_at": "2026-01-02T03:04:05.678901Z",
    }
    return build(**fields | changes)


def changed(**changes: Any) -> bytes:
    """A manifest as another program may have written it."""
    return json.dumps(json.loads(manifest().to_json()) | changes).encode()


def test_what_was_written_is_read_back():
    written = manifest(note="naïve", metrics={"accuracy": 0.97, "rows": 150}, batchable=False)
    read = Manifest.parse(written.to_json())
    assert read == written
    assert read.ref == ModelRef("iris", "v1")
    assert read.metrics == {"accuracy": 0.97, "rows": 150}
    assert not read.batchable


def test_the_same_values_give_the_same_bytes_in_whatever_order_they_came():
    one = manifest(metrics={"a": 1.0, "b": 2.0}, libraries={"numpy": "2", "joblib": "1"})
    other = manifest(metrics={"b": 2.0, "a": 1.0}, libraries={"joblib": "1", "numpy": "2"})
    assert one.to_json() == other.to_json()


def test_fields_of_a_later_release_are_left_out():
    assert Manifest.parse(changed(colour="blue")) == manifest()


def test_defaults_are_an_empty_note_no_metrics_and_batches():
    read = json.loads(changed())
    for name in ("note", "metrics", "batchable", "libraries"):
        del read[name]
    parsed = Manifest.parse(json.dumps(read).encode())
    assert (parsed.note, parsed.metrics, parsed.batchable, parsed.libraries) == ("", {}, True, {})


PROVEN: dict[str, Any] = {
    "golden": {
        "outputs": {"predictions": ["setosa"], "probabilities": [[0.9, 0.1, 0.0]]},
        "tolerance": {"rtol": 1e-4, "atol": 1e-6},
    },
    "compiled": {
        "candidate": "onnx",
        "chosen": "onnx",
        "reason": "agrees and is faster",
        "rows": 2001,
        "disagreements": 0,
        "max_difference": 2e-7,
        "tolerance": {"rtol": 1e-4, "atol": 1e-6},
        "rows_per_s": {"original": {"1": 90.5, "64": 4000.0}},
    },
    "parent": "iris@v0",
    "batchable": False,
    "unbatchable_reason": "row 2 answers otherwise beside others",
}


def test_what_was_proven_is_read_back():
    read = Manifest.parse(changed(**PROVEN))
    assert Manifest.parse(read.to_json()) == read
    assert read.golden is not None
    assert read.golden.outputs["predictions"] == ["setosa"]
    assert read.compiled is not None
    assert read.compiled.rows_per_s["original"]["64"] == 4000.0
    assert (read.parent, read.unbatchable_reason) == ("iris@v0", PROVEN["unbatchable_reason"])


def test_the_task_is_that_of_the_signature_whatever_is_written():
    assert json.loads(manifest().to_json())["task"] == "classifier"
    assert Manifest.parse(changed(task="regressor")).task == "classifier"


def test_a_manifest_of_the_first_release_is_read_as_not_proven():
    read = json.loads(changed())
    for name in ("task", "golden", "compiled", "parent", "unbatchable_reason"):
        del read[name]
    parsed = Manifest.parse(json.dumps(read).encode())
    assert (parsed.golden, parsed.compiled, parsed.parent) == (None, None, "")


def test_the_digest_is_of_names_sizes_and_contents_and_not_of_the_order():
    other = File.of("tokens.txt", b"a b c")
    assert digest_of([WEIGHTS, other]) == digest_of([other, WEIGHTS])
    assert digest_of([WEIGHTS]) != digest_of([File.of("model.joblib", b"weightz")])
    assert digest_of([WEIGHTS]) != digest_of([File.of("model2.joblib", b"weights")])


def test_the_digest_is_fixed_by_the_format_for_all_releases():
    written = b'[{"name":"model.joblib","sha256":"%s","size_bytes":7}]' % WEIGHTS.sha256.encode()
    assert digest_of([WEIGHTS]) == hashlib.sha256(written).hexdigest()


FILE = {"name": "model.joblib", "size_bytes": 7, "sha256": WEIGHTS.sha256}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"model": "../v1"}, "model:"),
        ({"model": 5}, "model:"),
        ({"version": "V1"}, "version:"),
        ({"version": None}, "version:"),
        ({"format": "Pickle!"}, "format:"),
        ({"runtime": "os.system"}, "runtime:"),
        ({"files": []}, "files:"),
        ({"files": {}}, "files:"),
        ({"files": [FILE, FILE]}, "files: names a file twice"),
        ({"files": [FILE | {"sha256": "A" * 64}]}, "files[0].sha256:"),
        ({"files": [FILE | {"sha256": WEIGHTS.sha256 + "\n"}]}, "files[0].sha256:"),
        ({"files": [FILE | {"size_bytes": -1}]}, "files[0].size_bytes:"),
        ({"files": [FILE | {"size_bytes": "7"}]}, "files[0].size_bytes:"),
        ({"digest": "0" * 64}, "digest: is not that of the files"),
        ({"signature": {"inputs": []}}, "signature.inputs:"),
        ({"example": []}, "example:"),
        ({"example": [[5.1, 3.5, 1.4]]}, "example:"),
        ({"example": [["5.1", 3.5, 1.4, 0.2]]}, "example:"),
        ({"example": [ROW] * 101}, "example:"),
        ({"libraries": {"numpy": 2}}, "libraries.numpy:"),
        ({"created_at": "yesterday"}, "created_at:"),
        ({"created_at": "2026-01-02T03:04:05+01:00"}, "created_at:"),
        ({"created_at": "2026-13-02T03:04:05Z"}, "created_at:"),
        ({"note": "n" * 2001}, "note:"),
        ({"metrics": {"accuracy": "high"}}, "metrics.accuracy:"),
        ({"batchable": "yes"}, "batchable:"),
        ({"golden": {"outputs": []}}, "golden.outputs:"),
        ({"golden": PROVEN["golden"] | {"tolerance": {"rtol": -1.0}}}, "golden.tolerance.rtol:"),
        ({"compiled": {"chosen": "onnx"}}, "compiled.reason:"),
        ({"parent": "iris"}, "parent:"),
        ({"parent": "../iris@v1"}, "parent:"),
    ],
)
def test_a_fault_names_its_field(changes, place):
    with pytest.raises(InvalidManifest) as caught:
        Manifest.parse(changed(**changes))
    assert caught.value.message.startswith(f"manifest: {place}"), caught.value.message
    assert caught.value.code == "invalid_manifest"


@pytest.mark.parametrize(
    "name",
    ["../x", "a/b", "/etc/passwd", "a\\b", "", ".hidden", "..", "manifest.json", "a\n", "n" * 129],
)
def test_a_file_is_a_plain_name_in_the_folder(name):
    with pytest.raises(InvalidManifest, match=r"^manifest: files\[0\]\.name:"):
        Manifest.parse(changed(files=[FILE | {"name": name}]))


def test_a_missing_field_is_named():
    with pytest.raises(InvalidManifest, match=r"^manifest: runtime: Field required"):
        Manifest.parse(changed().replace(b'"runtime"', b'"run"'))


def test_a_metric_that_json_cannot_carry_is_refused_when_it_is_made():
    with pytest.raises(InvalidManifest, match=r"metrics\.loss"):
        manifest(metrics={"loss": float("nan")})


@pytest.mark.parametrize("raw", [b"", b"{", b"null", b"[]", b'{"model": 1, "model": 2}', b"\xff"])
def test_what_is_no_manifest_at_all_is_refused(raw):
    with pytest.raises(InvalidManifest):
        Manifest.parse(raw)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(raw):
    with pytest.raises(InvalidManifest):
        Manifest.parse(raw)


def test_a_manifest_has_a_bound():
    with pytest.raises(InvalidManifest, match="the bound is"):
        Manifest.parse(b" " * (MOST_BYTES + 1))
    many = manifest(
        signature=TEXT, example=tuple("x" * (MOST_BYTES // 50) for _ in range(60)), files=(WEIGHTS,)
    )
    with pytest.raises(InvalidManifest, match="the bound is"):
        many.to_json()


def test_the_example_reads_as_rows_in_signature_order():
    named = dict(zip(IRIS.names, ROW, strict=True))
    reverse = dict(reversed(named.items()))
    assert manifest(example=(reverse, ROW)).rows == [ROW, ROW]
    assert manifest(signature=TEXT, example=("good",)).rows == [["good"]]
