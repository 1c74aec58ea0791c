"""Memory size of a loaded model, counted object by object.

The growth of the process while loading would be simpler, but it is noise: the allocator keeps pages
from before, imports fall into it, and other versions load at the same time. The artefact's length
alone is wrong, too: it may be compressed, and a dictionary of words takes ten times its pickled
bytes.
"""

from __future__ import annotations

import gc
import pickle
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

#: Code and interpreter state: shared, not the model's. Their references are not followed.
_SHARED = (type, types.ModuleType, types.CodeType, np.ufunc, np.dtype)
_PLAIN_MODULES = ("builtins", "collections")


def reachable(root: Any) -> Iterator[Any]:
    """Yields every object that ``root`` keeps alive, once, itself first; code is left out."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or _is_shared(item):
            continue
        seen.add(id(item))
        yield item
        waiting.extend(_inside(item))


def measure(model: Any, mapped_share: float = 1.0) -> int:
    """Returns the bytes that ``model`` keeps alive.

    Args:
        model: Any loaded object.
        mapped_share: Weight of a byte of an array in a mapped file: other workers map it, too.
    """
    owners: set[int] = set()  # arrays may be views of one memory
    return round(sum(_size(item, owners, mapped_share) for item in reachable(model)))


def _is_shared(item: Any) -> bool:
    """True for code of Python, C or Cython: functions refer to their whole module."""
    is_function = hasattr(item, "__qualname__") and not isinstance(item, types.MethodType)
    return is_function or isinstance(item, _SHARED)


def _inside(item: Any) -> list[Any]:
    if isinstance(item, np.ndarray):  # the collector does not look into arrays
        return item.ravel().tolist() if item.dtype.hasobject else []
    if isinstance(item, dict):  # nor at keys that are strings
        return [*item.keys(), *item.values()]
    return [] if _is_opaque(item) else gc.get_referents(item)


def _size(item: Any, owners: set[int], mapped_share: float) -> float:
    if isinstance(item, np.ndarray):
        owner = item
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if id(owner) in owners:
            return 0
        owners.add(id(owner))
        share = mapped_share if isinstance(owner, np.memmap) else 1.0
        return owner.nbytes * share + 112  # bytes of an array's own header
    return sys.getsizeof(item) + (_pickled(item) if _is_opaque(item) else 0)


def _is_opaque(item: Any) -> bool:
    """True if its data lies in C, hidden from Python: trees, k-d trees, random states."""
    kind = type(item)
    return (
        kind.__module__ not in _PLAIN_MODULES
        and not hasattr(item, "__dict__")
        and getattr(kind, "__reduce__", None) is not object.__reduce__
    )


class _Counter:
    def __init__(self) -> None:
        self.size_bytes = 0

    def write(self, chunk: Any) -> int:
        length = len(chunk)
        self.size_bytes += length
        return length


def _pickled(item: Any) -> int:
    counter = _Counter()
    try:
        pickle.dump(item, counter, protocol=5)
    except Exception:  # made while loading, and small
        return 0
    return counter.size_bytes
