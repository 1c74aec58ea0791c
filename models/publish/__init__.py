"""Publishing, from a file to a registered version: examine, try, compile, store, register."""

from typing import TYPE_CHECKING

from yard.lazy import lazy_names

if TYPE_CHECKING:
    from models.publish.examine import try_version
    from models.publish.publisher import check_catalogue, publish, register, register_store
    from models.publish.quantizer import QuantizeReport, quantize

__all__ = [
    "QuantizeReport",
    "check_catalogue",
    "publish",
    "quantize",
    "register",
    "register_store",
    "try_version",
]

__getattr__ = lazy_names(
    __name__,
    {
        "QuantizeReport": "models.publish.quantizer",
        "check_catalogue": "models.publish.publisher",
        "publish": "models.publish.publisher",
        "quantize": "models.publish.quantizer",
        "register": "models.publish.publisher",
        "register_store": "models.publish.publisher",
        "try_version": "models.publish.examine",
    },
)
