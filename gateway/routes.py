"""For operators: see how a model's traffic splits, and change it."""

from __future__ import annotations

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag

from gateway import bodies, describe
from gateway.intake import expected_revisions, model_in_path
from gateway.observe import note
from gateway.services import services
from producer import errors, wire
from producer.connect import redis_reachable
from producer.contract import Route
from producer.routing import read_route, set_route

routes = APIBlueprint(
    "routes",
    __name__,
    abp_tags=[Tag(name="routes", description="Which version gets a model's traffic.")],
)


@routes.get(
    "/v1/models/<model>/route",
    **describe.call(
        "getRoute",
        describe.MODEL,
        answers={200: bodies.Route},
        refuses=(errors.UnknownModel, errors.Unavailable),
    ),
)
def get() -> Response:
    """The route in force, what the keys say, and what is wrong with them."""
    with redis_reachable():
        return _answer(read_route(services().redis, model_in_path()))


@routes.put(
    "/v1/models/<model>/route",
    request_body=describe.body(bodies.RouteChange),
    **describe.call(
        "changeRoute",
        describe.MODEL,
        describe.IF_MATCH,
        answers={200: bodies.Route},
        refuses=(
            errors.InvalidJson,
            errors.InvalidInput,
            errors.InvalidRoute,
            errors.UnknownModel,
            errors.RevisionMismatch,
            errors.TooLarge,
            errors.Unavailable,
        ),
        statuses=(415,),
    ),
)
def put() -> Response:
    """Change the active version, the weights, or both, at one instant.

    The change holds for every job that is accepted after the answer.
    """
    model = model_in_path()
    change = bodies.check(bodies.RouteChange, services().intake.json())
    with redis_reachable():
        route = set_route(
            services().redis,
            model,
            active=change.active,
            weights=change.weights,
            revision=_revision(model),
        )
    return _answer(route)


def _revision(model: str) -> int | None:
    """The revision that the route must have; None where any will do.

    Raises:
        RevisionMismatch: It has none of those that the caller accepts.
        UnknownModel: No version of the model is published.
    """
    accepted = expected_revisions()
    if accepted is None or len(accepted) == 1:
        return next(iter(accepted)) if accepted else None
    present = read_route(services().redis, model).revision
    if present not in accepted:
        raise errors.RevisionMismatch(f"the route of {model!r} is at revision {present}")
    return present


def _answer(route: Route) -> Response:
    note(model=route.model)
    response = Response(wire.dumps(route.to_dict()), mimetype="application/json")
    response.set_etag(str(route.revision))
    return response
