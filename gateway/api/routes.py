"""The routes API: operators read and change how a model's traffic splits."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag

from gateway.api import openapi, schemas
from gateway.api.flask_views import annotate, current_request, sleep_for_caller
from gateway.api.parameters import (
    expected_revisions,
    json_in_body,
    model_in_path,
    seconds_in_query,
)
from gateway.http import SMALL_BYTES, HttpRequest
from gateway.services import services
from yard import errors
from yard.broker import redis_reachable
from yard.cluster import read_presence
from yard.contract import Route, wire
from yard.routing import RouteChange, cold_versions, flip_route, read_route

blueprint = APIBlueprint(
    "routes",
    __name__,
    abp_tags=[Tag(name="routes", description="Which version gets a model's traffic.")],
)


@blueprint.get(
    "/v1/models/<model>/route",
    **openapi.call(
        "getRoute",
        openapi.MODEL,
        answers={200: schemas.Route},
        refuses=(errors.UnknownModel, errors.Unavailable),
    ),
)
def get() -> Response:
    """The route in force, what the keys say, and what is wrong with them."""
    with redis_reachable():
        return _answer(read_route(services().redis, model_in_path(current_request())))


@blueprint.put(
    "/v1/models/<model>/route",
    request_body=openapi.body(schemas.RouteChange),
    **openapi.call(
        "changeRoute",
        openapi.MODEL,
        openapi.IF_MATCH,
        openapi.WARM,
        answers={200: schemas.RouteChanged},
        refuses=(
            errors.InvalidJson,
            errors.InvalidInput,
            errors.InvalidRoute,
            errors.UnknownModel,
            errors.RevisionMismatch,
            errors.ModelUnavailable,
            errors.TooLarge,
            errors.Unavailable,
        ),
        statuses=(415,),
    ),
)
def put() -> Response:
    """Change the active version, the weights, or both, at one instant.

    First every living pool loads the versions that are to get traffic; if one does not load, the
    route stays as it is. The change holds for every job that is accepted after the answer.
    """
    request, settings = current_request(), services().settings
    model, warm_s = model_in_path(request), seconds_in_query(request, "wait", settings.warm_s)
    wanted = schemas.check(schemas.RouteChange, json_in_body(request, SMALL_BYTES))
    with redis_reachable():
        change = RouteChange(model, wanted.active, wanted.weights, _revision(request, model))
        route, warmth = flip_route(services().redis, change, warm_s, sleep_for_caller)
        return _answer(route, warm=warmth.to_dict())


def _revision(request: HttpRequest, model: str) -> int | None:
    """Returns the revision that the route must have; None if any will do.

    Raises:
        RevisionMismatch: The route has none of the revisions that the caller accepts.
        UnknownModel: No version of the model is published.
    """
    accepted = expected_revisions(request)
    if accepted is None or len(accepted) == 1:
        return next(iter(accepted)) if accepted else None
    present = read_route(services().redis, model).revision
    if present not in accepted:
        raise errors.RevisionMismatch(f"the route of {model!r} is at revision {present}")
    return present


def _answer(route: Route, **more: Any) -> Response:
    annotate(model=route.model)
    more["cold"] = cold_versions(route, read_presence(services().redis))
    response = Response(wire.dumps(route.to_dict() | more), mimetype="application/json")
    response.set_etag(str(route.revision))
    return response
