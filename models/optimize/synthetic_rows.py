"""Synthetic rows around an example, to compare two models on.

An example has a few rows; a compiled form has to answer like its original everywhere. So more are
made from known values: rows between and beyond those of the example, numbers at which the trees of
the model decide, categories that it was fitted with, words of its vocabulary. The same rows come
out each time.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from models.runtimes import arrays, memory_size
from yard.contract import Signature

#: Number of rows.
COUNT = 2_000
_SEED = 20_260_102
#: Words in a text at most, and words of a vocabulary that are used.
_WORDS, _VOCABULARY = 40, 5_000


def rows_around(estimator: Any, signature: Signature, example: arrays.Rows) -> arrays.Rows:
    """Returns `COUNT` rows that ``estimator`` may answer; some it may refuse."""
    random = np.random.default_rng(_SEED)
    if [column.type for column in signature.inputs] == ["string"] and (
        words := _words(estimator, example)
    ):
        return [[_text(random, words, example)] for _ in range(COUNT)]
    columns = [
        _cells(random, column.type, [row[place] for row in example], _known(estimator, place))
        for place, column in enumerate(signature.inputs)
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def rows_near(signature: Signature, example: arrays.Rows) -> arrays.Rows:
    """Returns `COUNT` rows close to the example's: one of them, a little of another, and noise.

    For comparing where no agreement can be expected far away from all data.
    """
    random = np.random.default_rng(_SEED)
    real = np.array([column.type in ("float64", "float32") for column in signature.inputs])
    first, second = random.integers(len(example), size=(2, COUNT))
    if not real.any():
        return [list(example[place]) for place in range(len(example))]
    numbers = np.array(
        [[cell if is_real else 0.0 for cell, is_real in zip(row, real, strict=True)]
         for row in example]
    )  # fmt: skip
    part = random.uniform(0, 0.2, (COUNT, 1))
    noise = numbers.std(axis=0) * 0.02 * random.standard_normal((COUNT, len(real)))
    mixed = (1 - part) * numbers[first] + part * numbers[second] + noise
    return [
        [
            value if is_real else cell
            for value, is_real, cell in zip(values, real, example[place], strict=True)
        ]
        for values, place in zip(mixed.tolist(), first.tolist(), strict=True)
    ]


def _cells(random: Any, type_: str, seen: list[Any], known: list[Any]) -> list[Any]:
    if type_ in ("string", "bool"):
        alike = [value for value in known if isinstance(value, type(seen[0]))]
        choices = sorted({*seen, *alike}) if type_ == "string" else [False, True]
        return [choices[place] for place in random.integers(len(choices), size=COUNT)]
    if type_ == "int64":
        spread = max(1, max(seen) - min(seen))
        steps = random.integers(-spread, spread + 1, size=COUNT)
        return [int(seen[place % len(seen)]) + int(step) for place, step in enumerate(steps)]
    return _numbers(random, np.array(seen, dtype=np.float64), known)


def _numbers(random: Any, seen: Any, known: list[Any]) -> list[float]:
    """Returns numbers near the example, between its rows, beyond, whole, and at known numbers."""
    low, high = float(seen.min()), float(seen.max())
    spread = max(high - low, float(np.abs(seen).mean()) / 2) or 1.0
    near = random.choice(seen, COUNT) + spread * 0.3 * random.standard_normal(COUNT)
    between = random.uniform(low - spread, high + spread, COUNT)
    beyond = random.choice(seen, COUNT) + spread * 10 * random.standard_normal(COUNT)
    whole = np.rint(between)
    numbers = np.array([value for value in known if isinstance(value, float)] or [0.0, low, high])
    exact = random.choice(numbers, COUNT)
    kinds = random.choice(5, COUNT, p=(0.4, 0.3, 0.1, 0.1, 0.1))
    values: list[float] = np.choose(kinds, (near, between, beyond, whole, exact)).tolist()
    return values


def _known(estimator: Any, place: int) -> list[Any]:
    """Returns an estimator's values of a column: thresholds of trees, categories of encoders."""
    known: set[Any] = set()
    for item in memory_size.reachable(estimator):
        feature = getattr(item, "feature", None)
        thresholds = getattr(item, "threshold", None)
        if isinstance(feature, np.ndarray) and isinstance(thresholds, np.ndarray):
            known.update(np.unique(thresholds[feature == place])[:200].tolist())
        nodes = getattr(item, "nodes", None)  # of histogram gradient boosting
        if isinstance(nodes, np.ndarray) and "num_threshold" in (nodes.dtype.names or ()):
            of_place = nodes[(nodes["feature_idx"] == place) & (nodes["is_leaf"] == 0)]
            known.update(np.unique(of_place["num_threshold"])[:200].tolist())
        categories = getattr(item, "categories_", None)
        if isinstance(categories, list):
            for listed in categories:
                if isinstance(listed, np.ndarray) and len(listed) <= 1_000:
                    known.update(listed.tolist())
        if len(known) > _VOCABULARY:
            break
    return sorted(known, key=lambda value: (str(type(value)), repr(value)))


def _words(estimator: Any, example: arrays.Rows) -> list[str]:
    """Returns the vocabulary of a text model and the example's words; else nothing."""
    words: set[str] = set()
    for item in memory_size.reachable(estimator):
        vocabulary = getattr(item, "vocabulary_", None)
        if isinstance(vocabulary, dict):
            words.update(itertools.islice(sorted(map(str, vocabulary)), _VOCABULARY))
    if not words:
        return []
    for row in example:
        words.update(row[0].split())
    return sorted(words)


def _text(random: Any, words: list[str], example: arrays.Rows) -> str:
    """Returns words in any order, some in other letters, some unknown, some of the example."""
    count = int(random.integers(0, _WORDS))
    chosen = [words[place] for place in random.integers(len(words), size=count)]
    kind = int(random.integers(10))
    if kind == 0:
        chosen = [word.upper() for word in chosen]
    elif kind == 1:
        chosen = [word.capitalize() for word in chosen] + ["zyx", "42", "don't", "e-mail", "naïve"]
    elif kind == 2:
        chosen += str(example[int(random.integers(len(example)))][0]).split()
    separator = (" ", " ", ", ", "  ", ".\n", "\t")[int(random.integers(6))]
    return separator.join(chosen)
