"""The models API: published models and versions, what they take, and where they are loaded."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag

from gateway.api import openapi, schemas
from gateway.api.flask_views import annotate, current_request
from gateway.api.parameters import model_in_path, version_in_path
from gateway.services import services
from yard import errors
from yard.contract import wire
from yard.status import model_json, read_models, read_status, read_suspended, version_json

blueprint = APIBlueprint(
    "catalogue",
    __name__,
    abp_tags=[Tag(name="models", description="What is published.")],
)


@blueprint.get(
    "/v1/models",
    **openapi.call("listModels", answers={200: schemas.Models}, refuses=(errors.Unavailable,)),
)
def list_models() -> Response:
    """Every published model."""
    suspended = read_suspended(services().redis)
    known: dict[str, Any] = {"models": read_models(services().redis)}
    return _answer(known | ({"suspended": suspended} if suspended else {}))


@blueprint.get(
    "/v1/models/<model>",
    **openapi.call(
        "getModel",
        openapi.MODEL,
        answers={200: schemas.Model},
        refuses=(errors.UnknownModel, errors.Unavailable),
    ),
)
def get_model() -> Response:
    """One model."""
    name = model_in_path(current_request())
    look = read_status(services().redis, name)
    annotate(model=name)
    return _answer(model_json(look.models[0], look.presence))


@blueprint.get(
    "/v1/models/<model>/versions/<version>",
    **openapi.call(
        "getVersion",
        openapi.MODEL,
        openapi.VERSION,
        answers={200: schemas.VersionDetail},
        refuses=(errors.UnknownModel, errors.UnknownVersion, errors.Unavailable),
    ),
)
def get_version() -> Response:
    """One version, with its whole manifest."""
    ref = version_in_path(current_request())
    look = read_status(services().redis, ref.model)
    model = look.models[0]
    entry = model.versions.get(ref.version)
    if entry is None:
        raise errors.UnknownVersion(f"model {ref.model!r} has no version {ref.version!r}")
    annotate(model=ref.model, version=ref.version)
    return _answer(version_json(model, entry, look.presence) | {"manifest": entry.manifest})


def _answer(value: dict[str, Any]) -> Response:
    return Response(wire.dumps(value), mimetype="application/json")
