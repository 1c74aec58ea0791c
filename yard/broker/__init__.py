"""Redis itself: connections, Sentinel, Lua scripts, subscriptions."""

from yard.broker import connections
from yard.broker.connections import (
    OLDEST_REDIS,
    check_server,
    redact_url,
    redis_reachable,
    server_version,
)
from yard.broker.lua import Script, ScriptArgument
from yard.broker.pubsub import Subscription

__all__ = [
    "OLDEST_REDIS",
    "Script",
    "ScriptArgument",
    "Subscription",
    "check_server",
    "connections",
    "redact_url",
    "redis_reachable",
    "server_version",
]
