"""Faster and smaller forms of a model, and the proof that they answer the same."""

from typing import TYPE_CHECKING

from yard.lazy import lazy_names

if TYPE_CHECKING:
    from models.optimize.int8_weights import quantize_graph
    from models.optimize.synthetic_rows import rows_around

__all__ = [
    "compile",
    "quantize_graph",
    "rows_around",
]

__getattr__ = lazy_names(
    __name__,
    {
        "quantize_graph": "models.optimize.int8_weights",
        "rows_around": "models.optimize.synthetic_rows",
    },
)
