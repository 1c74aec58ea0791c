"""Redis itself: connections, Sentinel, Lua scripts, subscriptions."""

from yard.broker import connections
from yard.broker.connections import OLDEST, check_server, redacted, redis_reachable, server_version
from yard.broker.lua import Argument, Script
from yard.broker.pubsub import Subscription

__all__ = [
    "OLDEST",
    "Argument",
    "Script",
    "Subscription",
    "check_server",
    "connections",
    "redacted",
    "redis_reachable",
    "server_version",
]
