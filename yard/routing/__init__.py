"""Routing: the version that gets a model's traffic, and warm-up before a flip."""

from yard.routing import routes, warmup
from yard.routing.routes import (
    RouteChange,
    look_at_routes,
    read_route,
    resolve,
    routed_versions,
    routing_error,
    routing_point,
    set_alias,
)
from yard.routing.warmup import (
    WarmupResult,
    cold_versions,
    flip_route,
    read_wanted_versions,
    unmet_warmups,
)

__all__ = [
    "RouteChange",
    "WarmupResult",
    "cold_versions",
    "flip_route",
    "look_at_routes",
    "read_route",
    "read_wanted_versions",
    "resolve",
    "routed_versions",
    "routes",
    "routing_error",
    "routing_point",
    "set_alias",
    "unmet_warmups",
    "warmup",
]
