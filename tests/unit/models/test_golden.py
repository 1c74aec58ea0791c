"""Golden answers: a version that answers otherwise than when it was published is not let in."""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any

import pytest

from models.manifest import Golden, Manifest, Tolerance
from models.runtimes import golden
from tests.helpers.stand_ins import IRIS, NARROW, ROW
from tests.unit.models.test_manifest import manifest
from yard.contract.values import Signature
from yard.errors import InvalidManifest, ModelUnavailable

ANSWERS: dict[str, list[Any]] = {
    "predictions": ["setosa", "virginica"],
    "probabilities": [[0.9, 0.1, 0.0], [0.0, 0.2, 0.8]],
}
KNOWN = Golden(outputs=ANSWERS, tolerance=Tolerance(rtol=1e-3, atol=1e-6))


class Answering:
    """A loaded version with fixed answers."""

    signature = IRIS
    size_bytes = 0

    def __init__(self, answers: dict[str, list[Any]]) -> None:
        self.answers = answers

    def predict(self, rows: list[list[Any]]) -> dict[str, list[Any]]:
        if not self.answers:
            raise ValueError("out of order")
        return self.answers


def proven(**changes: Any) -> Manifest:
    return manifest(**{"example": (ROW, ROW), "golden": KNOWN, "libraries": {}} | changes)


def fault(answers: dict[str, list[Any]], **changes: Any) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        golden.check_golden(Answering(answers), proven(**changes))
    return caught.value.message


def test_the_same_answers_pass_and_rounding_does_too():
    golden.check_golden(Answering(ANSWERS), proven())
    near = ANSWERS | {"probabilities": [[0.9005, 0.1, 1e-7], [0.0, 0.2, 0.8]]}
    golden.check_golden(Answering(near), proven())


def test_a_manifest_without_golden_answers_is_not_checked():
    golden.check_golden(Answering({}), proven(golden=None))


def test_another_label_is_named_with_output_row_and_both_answers():
    said = fault(ANSWERS | {"predictions": ["setosa", "versicolor"]})
    assert said.startswith("iris@v1: does not answer as it did when it was published: ")
    assert "output 'predictions', row 1: expected 'virginica', got 'versicolor'" in said


@pytest.mark.parametrize("value", [0.91, float("nan"), None, "0.9"])
def test_a_number_beyond_the_tolerance_is_named_too(value):
    said = fault(ANSWERS | {"probabilities": [[value, 0.1, 0.0], [0.0, 0.2, 0.8]]})
    assert "output 'probabilities', row 0: expected [0.9, 0.1, 0.0], got [" in said


def test_a_classifiers_label_must_be_equal_also_where_it_is_a_number():
    numbered = Signature(
        inputs=IRIS.inputs, outputs=NARROW.outputs, classes=(0.0, 1.0), task="classifier"
    )
    known = Golden(outputs={"predictions": [1.0]}, tolerance=Tolerance(rtol=0.1))
    said = fault({"predictions": [1.01]}, signature=numbered, golden=known)
    assert "expected 1.0, got 1.01" in said
    regressor = Signature(inputs=IRIS.inputs, outputs=NARROW.outputs)
    golden.check_golden(
        Answering({"predictions": [1.01]}), proven(signature=regressor, golden=known)
    )


def test_missing_answers_and_a_raising_model_are_faults():
    assert "output 'predictions' has 0 answers, expected are 2" in fault(
        {"probabilities": ANSWERS["probabilities"]}
    )
    assert "does not answer its example: ValueError: out of order" in fault({})


def test_libraries_of_another_version_are_named_with_both_versions():
    here = metadata.version("scikit-learn")
    said = fault({}, libraries={"scikit-learn": "0.9.9", "python": "2.7", "numpy": "0.1"})
    assert f"published with numpy 0.1, here is {metadata.version('numpy')}; " in said
    assert said.endswith(f"scikit-learn 0.9.9, here is {here}")
    assert "published with" not in fault({}, libraries={"scikit-learn": here})


def test_a_long_answer_is_recorded_for_as_many_rows_as_there_is_room_for():
    row = [0.123456789] * 1000
    few = golden.record_golden({"predictions": [row] * 50}, Tolerance())
    assert few is not None
    assert 0 < few.count < 50
    assert len(json.dumps(few.outputs)) < 2 * golden.MOST_BYTES
    assert golden.record_golden({"predictions": [row * 100]}, Tolerance()) is None
    assert golden.record_golden(ANSWERS, KNOWN.tolerance) == KNOWN


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({}, "golden.outputs"),
        ({"predictions": []}, "golden.outputs"),
        ({"predictions": ["setosa"], "probabilities": []}, "the same number"),
        ({"predictions": ["setosa"]}, "must have the outputs predictions, probabilities"),
        ({name: answers * 2 for name, answers in ANSWERS.items()}, "4 answers to 2 rows"),
    ],
)
def test_golden_answers_that_do_not_fit_the_version_are_refused(outputs, said):
    raw = json.loads(proven().to_json())
    raw["golden"]["outputs"] = outputs
    with pytest.raises(InvalidManifest, match=said):
        Manifest.parse(json.dumps(raw).encode())
