"""Health checks: the process serves (liveness), and predictions can be served (readiness)."""

from __future__ import annotations

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag

from gateway.api import openapi, schemas
from gateway.api.async_views import AsyncViews
from gateway.api.flask_views import flask_response
from gateway.http import HttpRequest, HttpResponse, json_response
from gateway.middleware import problem
from gateway.services import Services, services
from yard.broker import redis_reachable
from yard.cluster import format_problem, why_no_pool_works
from yard.contract import wire
from yard.errors import Unavailable
from yard.status import Status, read_status, read_suspended

blueprint = APIBlueprint(
    "health", __name__, abp_tags=[Tag(name="operation", description="Health and metrics.")]
)

async_views = AsyncViews(blueprint)

_OK = "ok"


@async_views("GET", "/healthz", **openapi.call("isAlive", answers={200: schemas.Health}))
async def healthz(_request: HttpRequest, _services: Services) -> HttpResponse:
    """The process serves. Says nothing of Redis or the workers."""
    return json_response(b'{"status":"ok"}')


@async_views("GET", "/health", **openapi.call("isHealthy", answers={200: schemas.Health}))
async def health(request: HttpRequest, services: Services) -> HttpResponse:
    """The same as `/healthz`."""
    return await healthz(request, services)


@blueprint.get(
    "/readyz",
    **openapi.call("isReady", answers={200: schemas.Readiness}, refuses=(Unavailable,)),
)
def readyz() -> Response:
    """A prediction could be served: Redis, a model with a servable version, and a pool are there.

    Otherwise 503, with what is missing in `checks`.
    """
    try:
        checks = _checks(read_status(services().redis), _format_problem())
        suspended = read_suspended(services().redis)
    except Unavailable as error:
        checks = {"redis": error.message}
    missing = [name for name, state in checks.items() if state != _OK]
    if not missing:
        # Jobs are accepted and wait: an operator wants it so, and no gateway is to be taken out.
        checks |= {"jobs": suspended} if suspended else {}
        body = wire.dumps({"status": "ready", "checks": checks})
        return Response(body, mimetype="application/json")
    detail = "; ".join(f"{name}: {checks[name]}" for name in missing)
    response = problem(503, "not_ready", "Not ready", detail, checks=checks)
    response.headers.append(("Retry-After", "1"))
    return flask_response(response)


def _format_problem() -> str:
    with redis_reachable():
        return format_problem(services().redis)


def _checks(status: Status, format_problem: str) -> dict[str, str]:
    """Returns each requirement of serving with ``ok``, or with what is missing."""
    unrouted = [model.name for model in status.models if model.route.mode == "none"]
    models = _OK
    if not status.models:
        models = "no model is published"
    elif len(unrouted) == len(status.models):
        models = f"no model has an active version: set modelyard:active:{unrouted[0]}"
    pools = _OK if status.presence.looking else why_no_pool_works(status.presence.pools)
    return {"redis": format_problem or _OK, "models": models, "pools": pools}
