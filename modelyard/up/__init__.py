"""`modelyard up`: Redis, gateway and pool as child processes of one command."""

from typing import TYPE_CHECKING

from yard.lazy import lazy_names

if TYPE_CHECKING:
    from modelyard.up.redis_server import RESULT_NODE_BYTES, find_server

__all__ = [
    "RESULT_NODE_BYTES",
    "find_server",
]

__getattr__ = lazy_names(
    __name__,
    {
        "RESULT_NODE_BYTES": "modelyard.up.redis_server",
        "find_server": "modelyard.up.redis_server",
    },
)
