"""Loads versions into a worker's memory: from the store, and only what was published.

The catalogue in Redis and the manifest in the store must name the same bytes, so that write access
to one of the two is not enough to make a worker open something else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from redis import Redis

from models.manifest import Manifest
from models.runtimes import Loaded, load, prepare
from models.store import Repository
from worker.inference.throughput import ServiceTimes
from worker.queue import Retry
from yard.contract import ModelRef, queue_name, wire
from yard.errors import ModelUnavailable, ModelyardError, VersionGone
from yard.registry import PublishedVersion, read_state, read_states, read_versions


class Loader:
    """Loads versions; see `models.runtimes.model_cache.ModelCache`.

    Args:
        repository: Where the artefacts lie.
        redis: Where the catalogue is.
        retry: Repeats what it is given until Redis has answered.
        service_times: Gets the time of each load's proof, in place of what it knew of the version.
    """

    def __init__(
        self,
        repository: Repository,
        redis: Redis,
        retry: Retry,
        service_times: ServiceTimes | None = None,
    ) -> None:
        self._repository = repository
        self._redis = redis
        self._retry = retry
        self._service_times = service_times or ServiceTimes()
        self._batchable: dict[ModelRef, bool] = {}
        self._states: dict[ModelRef, str] = {}

    def __call__(self, ref: ModelRef) -> Loaded:
        """Load a version, ready to predict.

        Raises:
            VersionGone: It is no longer in the catalogue.
            ModelUnavailable: It does not load, or the store holds other bytes than were published.
        """
        # Read first: where another version takes the name now, the next claim says so.
        self._states[ref] = self._retry(lambda: read_state(self._redis, ref))
        published = self.published_digest(ref)
        manifest = self._repository.manifest(ref, published)
        if manifest.digest != published:
            raise ModelUnavailable(
                f"{ref}: the store holds {manifest.digest[:12]}, published was {published[:12]}"
            )
        self._batchable[ref] = manifest.batchable
        queue = queue_name(ref)
        self._service_times.forget_stacks(queue)
        return load(
            manifest,
            self._repository,
            lambda rows, seconds: self._service_times.add_stack(
                queue, rows, seconds, manifest.batchable
            ),
        )

    def is_current(self, ref: ModelRef, state: str) -> bool:
        """Return whether what was loaded of a version is what a claim means.

        Args:
            ref: The version.
            state: See `worker.queue.Batch`.
        """
        is_another = state.startswith(("revived", "deleted"))
        return not is_another or self._states.get(ref) == state

    def is_batchable(self, ref: ModelRef) -> bool:
        """Return whether rows of several jobs may be predicted together, of a loaded version."""
        return self._batchable[ref]

    def prepare(self, queues: Iterable[str]) -> None:
        """Import the runtimes of these queues' versions, before a first job has to wait for it.

        No others are imported: a worker of compiled versions never has scikit-learn in memory. They
        are read from the catalogue: a store may be far away, and importing does not open artefacts.

        Raises:
            RedisError: Redis does not answer.
        """
        served = set(queues)
        for model in sorted({queue.partition("@")[0] for queue in served}):
            for entry in read_versions(self._redis, model).values():
                if queue_name(entry.ref) not in served:
                    continue
                # An error in reading or importing is reported with the first job that needs it.
                with contextlib.suppress(ModelyardError):
                    prepare(Manifest.parse(wire.dumps(entry.manifest)))

    def published_digest(self, ref: ModelRef) -> str:
        """Return the digest that the catalogue has of a version.

        Raises:
            VersionGone: It has none, or the version was retired and its last job has ended.
        """

        def read() -> str | None:
            entry = read_versions(self._redis, ref.model).get(ref.version)
            if entry is None or self._is_drained(entry):
                return None
            return str(entry.manifest.get("digest", ""))

        digest = self._retry(read)  # Redis' absence is no fault of the model
        if digest is None:
            raise VersionGone(f"{ref} is no longer published")
        return digest

    def _is_drained(self, entry: PublishedVersion) -> bool:
        """Return whether a version was retired and its last job has ended."""
        if entry.state == "published":
            return False
        state, _ = read_states(self._redis).get(queue_name(entry.ref), ("", ""))
        return state == "drained"
