"""Which version gets a model's traffic, and which must be warm first."""

from yard.routing import routes, warmup
from yard.routing.routes import (
    Change,
    point_of,
    read_route,
    resolve,
    routed_versions,
    routing_error,
    set_alias,
)
from yard.routing.warmup import Warmth, cold, flip, read_wanted, unmet

__all__ = [
    "Change",
    "Warmth",
    "cold",
    "flip",
    "point_of",
    "read_route",
    "read_wanted",
    "resolve",
    "routed_versions",
    "routes",
    "routing_error",
    "set_alias",
    "unmet",
    "warmup",
]
