"""The gateway's processes: granian, its event loop and signals."""

from typing import TYPE_CHECKING

from yard.lazy import lazy_names

if TYPE_CHECKING:
    from gateway.server.processes import serve

__all__ = [
    "serve",
]

__getattr__ = lazy_names(
    __name__,
    {
        "serve": "gateway.server.processes",
    },
)
