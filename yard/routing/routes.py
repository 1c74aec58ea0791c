"""Routes: the version that gets a job, and the keys that decide it.

``route.lua`` makes the choice inside the submitting script, by the keys as they are at that
instant; `choose` is the same choice in Python, for readers and for tests that hold the two
together. Operators change the keys by hand or through `set_route`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from redis import Redis

from yard.broker import Script
from yard.contract import ModelRef, Route, check_name, keys, lenient, wire
from yard.errors import (
    InvalidRoute,
    ModelyardError,
    NoActiveVersion,
    RevisionMismatch,
    UnknownModel,
    UnknownVersion,
)

#: Most versions of one split; ``route.lua`` has the same bound.
MOST_WEIGHTS = 256

_RESOLVE = Script("yard", "resolve")
_SET_ROUTE = Script("yard", "set_route")
_LOOK = Script("yard", "look_at_routes")

#: Most models of one call of the looking script: 5 us each.
_LOOK_MODELS = 100


def routing_point(model: str, routing_key: str | None) -> float:
    """Returns a job's point in [0, 1): the same for the same model and key, random without a key.

    The first 53 bits of SHA-256, the most that a double holds.
    """
    if routing_key is None:
        return random.random()  # no secret: it only splits traffic
    digest = hashlib.sha256(f"{model}\0{routing_key}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53


def choose(weights: Mapping[str, float], point: float) -> str | None:
    """Returns the version that ``point`` in [0, 1) falls on, versions in the order of ``weights``.

    The order of `Route.weights` is the script's. None if nothing has a weight above zero.
    """
    routed = {version: weight for version, weight in weights.items() if weight > 0}
    total = 0.0
    for weight in routed.values():  # not `sum`, which rounds otherwise than Lua from 3.12 on
        total += weight
    target = point * total
    for version, weight in routed.items():
        target -= weight
        if target < 0:
            return version
    return next(reversed(routed), None)


def resolve(redis: Redis, model: str, version: str | None, point: float) -> ModelRef:
    """Returns the version that a request would get now, by its name, its alias or the route.

    Raises:
        UnknownModel: No version of the model is published.
        UnknownVersion: The version, or alias, is not.
        NoActiveVersion: The model's keys route to nothing.
        RedisError: Redis does not answer.
    """
    reply = _RESOLVE(redis, [model, version or "", point])
    if reply[0] != b"ok":
        raise routing_error(reply[0], model, version)
    return ModelRef(model, reply[1].decode())


def routing_error(kind: bytes, model: str, version: str | None) -> ModelyardError:
    """Returns the error of a script's reply of this kind: no version takes the request."""
    if kind == b"unknown_version":
        return UnknownVersion(f"model {model!r} has no version or alias {version!r}")
    if kind == b"version_gone":
        return UnknownVersion(
            f"version {version!r} of model {model!r} is retired or deleted: it gets no new jobs"
        )
    if kind == b"no_active_version":
        return NoActiveVersion(
            f"model {model!r} has no active version: set modelyard:active:{model}"
        )
    return UnknownModel(f"no version of model {model!r} is published")


def parse_plan(plan: str) -> dict[str, float]:
    """Parses the split that ``route.lua`` writes as ``v1=90 v2=10``."""
    entries = (entry.partition("=") for entry in plan.split())
    return {version: float(weight) for version, _, weight in entries}


def read_route(redis: Redis, model: str) -> Route:
    """Reads a model's route by the keys as they are now.

    Raises:
        UnknownModel: No version of it is published.
    """
    return _set(redis, model, None, ("keep", ""), ("keep", []))


@dataclass(frozen=True, slots=True)
class RouteChange:
    """A change of a model's route, as `set_route` takes it.

    Attributes:
        model: The model's name.
        active: The version that gets the traffic.
        weights: Version to weight; an empty mapping clears them.
        revision: Revision that the route must still have; None for any.
    """

    model: str
    active: str | None = None
    weights: Mapping[str, float] | None = None
    revision: int | None = None

    @property
    def routed(self) -> list[str]:
        """Versions that the change names and gives traffic to."""
        split = [version for version, weight in (self.weights or {}).items() if weight > 0]
        return split or ([self.active] if self.active is not None else [])


def apply_change(redis: Redis, change: RouteChange) -> Route:
    """Makes a change; see `set_route`."""
    return set_route(
        redis,
        change.model,
        active=change.active,
        weights=change.weights,
        revision=change.revision,
    )


def check_change(redis: Redis, change: RouteChange) -> Route:
    """Returns the present route; raises as `apply_change` would, by the keys as they are now."""
    pairs = _checked(change.active, change.weights)
    present = read_route(redis, change.model)
    if change.revision is not None and present.revision != change.revision:
        raise _moved(change.model, present.revision, change.revision)
    named = [version for version in (change.active, *pairs[::2]) if version is not None]
    known = redis.hmget(keys.key("signatures", change.model), named) if named else []
    for version, signature in zip(named, cast("list[bytes | None]", known), strict=True):
        if signature is None:
            raise _unpublished(change.model, version)
    return present


def set_route(
    redis: Redis,
    model: str,
    *,
    active: str | None = None,
    weights: Mapping[str, float] | None = None,
    revision: int | None = None,
) -> Route:
    """Writes a model's keys, all at one instant.

    ``active`` alone sends all traffic there: weights are cleared. ``weights`` alone leave the
    active version as it is, for when they are cleared; an empty mapping clears them.

    Args:
        redis: Where the keys are.
        model: The model's name.
        active: The version that gets the traffic.
        weights: Version to weight, finite and not below zero, one above zero at least.
        revision: Revision that the route must still have; None for any.

    Raises:
        InvalidRoute: The values could not be obeyed; nothing was changed.
        RevisionMismatch: The route is at another revision.
        UnknownModel: No version of the model is published.
    """
    pairs = _checked(active, weights)
    return _set(
        redis,
        model,
        revision,
        ("set", active) if active is not None else ("keep", ""),
        ("set", pairs) if pairs else ("clear", []),
    )


def rollback(redis: Redis, model: str) -> Route:
    """Restores the route that was in force before the present one.

    Raises:
        InvalidRoute: There was none, or one of its versions is gone.
        RevisionMismatch: The route was changed at the same time.
        UnknownModel: No version of the model is published.
    """
    return apply_change(redis, previous_change(redis, model))


def previous_change(redis: Redis, model: str) -> RouteChange:
    """Returns the change that restores the route before the present one.

    Raises:
        InvalidRoute: There was none.
        UnknownModel: No version of the model is published.
    """
    present = read_route(redis, model)
    for entry in history(redis, model):
        weights: dict[str, float] | None = parse_plan(entry["plan"])
        if weights == present.weights and entry["mode"] == present.mode:
            continue
        active: str | None = entry["active"] or None
        if entry["mode"] == "active":
            weights = None
        return RouteChange(model, active, weights, present.revision)
    raise InvalidRoute(f"model {model!r} has had no other route")


def history(redis: Redis, model: str, count: int = 50) -> list[dict[str, Any]]:
    """Reads the routes that were in force, the latest first.

    Each has ``revision``, ``mode``, ``plan``, ``active`` and ``at_ms`` by Redis' clock.
    """
    entries = redis.xrevrange(keys.key("history", model), count=count)
    found = []
    for entry_id, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", entries):
        entry: dict[str, Any] = {name.decode(): value.decode() for name, value in fields.items()}
        entry["revision"] = int(entry["revision"])
        entry["at_ms"] = int(entry_id.partition(b"-")[0])
        found.append(entry)
    return found


def look_at_routes(redis: Redis, models: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Works out the routes of models whose keys were changed; returns the problems of each.

    A look makes a route known that no job has used: it is in the history from then on, and goes on
    where the next value is bad.

    Args:
        redis: Where the keys are.
        models: The models; one that is not published, or cannot be read, has no entry in the
            result.

    Raises:
        RedisError: Redis does not answer.
    """
    found: dict[str, tuple[str, ...]] = {}
    for begin in range(0, len(models), _LOOK_MODELS):
        chunk = models[begin : begin + _LOOK_MODELS]
        for model, reply in zip(chunk, _LOOK(redis, chunk), strict=True):
            if reply:
                found[model] = tuple(wire.loads(reply[1]))
    return found


def routed_versions(redis: Redis, models: Sequence[str]) -> set[ModelRef]:
    """Reads the versions that get traffic, by the routes as ``route.lua`` kept them last."""
    pipe = redis.pipeline(transaction=False)
    for model in models:
        pipe.hget(keys.key("route", model), "plan")
    plans = pipe.execute(raise_on_error=False)
    return {
        ModelRef(model, version)
        for model, plan in zip(models, plans, strict=True)
        if isinstance(plan, bytes)
        for version, weight in parse_plan(plan.decode()).items()
        if weight > 0
    }


def set_alias(redis: Redis, model: str, alias: str, version: str | None) -> None:
    """Points ``alias`` to ``version``; None removes the alias.

    Raises:
        InvalidRoute: The version is not published, or the alias is itself a version's name, which
            would always win.
    """
    check_name("alias", alias)
    if version is None:
        redis.hdel(keys.key("aliases", model), alias)
        return
    published = keys.key("signatures", model)
    if not redis.hexists(published, check_name("version", version)):
        raise InvalidRoute(
            f"version {version!r} of model {model!r} is not published, or is retired"
        )
    if redis.hexists(published, alias):
        raise InvalidRoute(f"{alias!r} is a version of model {model!r}, so it can be no alias")
    redis.hset(keys.key("aliases", model), alias, version)


def _checked(active: str | None, weights: Mapping[str, float] | None) -> list[str]:
    """The weights as `_checked_weights` returns them; raises for a change that cannot be obeyed."""
    if active is None and weights is None:
        raise InvalidRoute("give an active version, weights, or both")
    pairs = _checked_weights(weights or {})
    for version in [active, *pairs[::2]]:
        if version is not None:
            check_name("version", str(version))
    return pairs


def _checked_weights(weights: Mapping[str, float]) -> list[str]:
    """Version, weight, version, weight, ... as text that ``route.lua`` obeys."""
    pairs: list[str] = []
    for version, weight in weights.items():
        if not 0 <= weight <= 1e300:  # NaN compares false
            raise InvalidRoute(f"the weight of {version!r} is {weight}: no finite number >= 0")
        pairs += [version, f"{weight:.12g}"]
    if len(weights) > MOST_WEIGHTS:
        raise InvalidRoute(f"{len(weights)} weights, the bound is {MOST_WEIGHTS}")
    if weights and not 0 < sum(weights.values()) <= 1e300:
        raise InvalidRoute("the weights sum to zero, or beyond all bounds")
    return pairs


def _set(
    redis: Redis,
    model: str,
    revision: int | None,
    active: tuple[Literal["keep", "set", "clear"], str],
    weights: tuple[Literal["keep", "set", "clear"], list[str]],
) -> Route:
    check_name("model", model)
    expected = "" if revision is None else revision
    reply = _SET_ROUTE(redis, [model, expected, *active, weights[0], *weights[1]])
    match reply:
        case [b"ok", *rest]:
            return _route(model, rest)
        case [b"revision", present]:
            raise _moved(model, present, revision)
        case [b"unknown_version", version]:
            raise _unpublished(model, version.decode())
    raise UnknownModel(f"no version of model {model!r} is published")


def _moved(model: str, present: object, revision: object) -> RevisionMismatch:
    return RevisionMismatch(f"the route of {model!r} is at revision {present}, not {revision}")


def _unpublished(model: str, version: str) -> InvalidRoute:
    return InvalidRoute(f"version {version!r} of model {model!r} is not published, or is retired")


def _route(model: str, reply: list[Any]) -> Route:
    revision, mode, plan, active, problems, changed_at, raw_active, raw_weights, aliases = reply
    return Route(
        model=model,
        mode=mode.decode(),
        weights=parse_plan(plan.decode()),
        active=active.decode() or None,
        revision=int(revision),
        problems=tuple(wire.loads(problems)),
        keys={
            "active": None if raw_active is None else _shown(raw_active),
            "weights": _pairs(raw_weights),
            "aliases": _pairs(aliases),
        },
        changed_at=changed_at.decode() or None,
    )


def _shown(raw: bytes) -> str:
    """An operator's text, cut to a length that can be shown."""
    return lenient.decode(raw[:200])


def _pairs(raw: list[bytes]) -> dict[str, str]:
    return {_shown(name): _shown(value) for name, value in zip(raw[::2], raw[1::2], strict=True)}
