"""Example models, which `modelyard up` publishes into an empty store."""

from typing import TYPE_CHECKING

from yard.lazy import lazy_names

if TYPE_CHECKING:
    from models.examples.examples import activate_examples, publish_examples

__all__ = [
    "activate_examples",
    "publish_examples",
]

__getattr__ = lazy_names(
    __name__,
    {
        "activate_examples": "models.examples.examples",
        "publish_examples": "models.examples.examples",
    },
)
