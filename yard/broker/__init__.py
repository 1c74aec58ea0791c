"""Redis itself: connections, Sentinel, Lua scripts, subscriptions."""
