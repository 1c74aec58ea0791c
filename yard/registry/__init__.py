"""The registry: published versions, the end of a version, and the queues of all."""

from yard.registry import catalog, lifecycle
from yard.registry.catalog import Catalog, PublishedVersion, model_names, read_versions
from yard.registry.lifecycle import VersionState, read_state, read_states
from yard.registry.queues import queue_names, read_served_queues

__all__ = [
    "Catalog",
    "PublishedVersion",
    "VersionState",
    "catalog",
    "lifecycle",
    "model_names",
    "queue_names",
    "read_served_queues",
    "read_state",
    "read_states",
    "read_versions",
]
