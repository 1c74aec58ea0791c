"""The client commands of ``modelyard``, by audience: `operators` flip keys, `clients` run jobs.

They parse arguments, call `producer.client`, `yard.routing.routes` and `producer.listing`, and
print; nothing is decided here. Redis is imported only when a command runs, so that help is fast.
"""

from producer.commands.clients import cancel, jobs, result, submit
from producer.commands.operators import activate, alias, models, rollback, route, weights

__all__ = [
    "activate",
    "alias",
    "cancel",
    "jobs",
    "models",
    "result",
    "rollback",
    "route",
    "submit",
    "weights",
]
