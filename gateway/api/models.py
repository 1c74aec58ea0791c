"""For everyone: which models and versions there are, what they take, and where they are loaded."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag

from gateway.api import openapi, schemas
from gateway.api.flask_views import annotate, current_request
from gateway.api.parameters import model_in_path, version_in_path
from gateway.services import services
from gateway.survey import ModelStatus, read_status
from yard import errors
from yard.cluster import Presence
from yard.contract import keys, wire
from yard.registry import Published
from yard.routing import cold
from yard.status import failed_loads

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
    look = read_status(services().redis)
    return _answer({"models": [_model(model, look.presence) for model in look.models]})


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
    return _answer(_model(look.models[0], look.presence))


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
    return _answer(_version(model, entry, look.presence) | {"manifest": entry.manifest})


def _model(model: ModelStatus, presence: Presence) -> dict[str, Any]:
    return {
        "model": model.name,
        "route": model.route.to_dict() | {"cold": cold(model.route, presence)},
        "queue_depth": model.depth,
        "versions": [_version(model, entry, presence) for entry in model.versions.values()],
    }


def _version(model: ModelStatus, entry: Published, presence: Presence) -> dict[str, Any]:
    """As `gateway.api.schemas.Version`; a manifest is whatever was published, so unproven."""
    version, manifest = entry.ref.version, entry.manifest
    queue = keys.queue_name(entry.ref)
    sizes = [file.get("size_bytes") for file in _dicts(manifest.get("files"))]
    return {
        "model": model.name,
        "version": version,
        "queue": queue,
        "queue_depth": model.queues[queue].depth,
        "active": model.route.active == version,
        "share": model.route.shares.get(version, 0.0),
        "state": entry.state,
        "aliases": sorted(
            alias for alias, named in model.route.keys["aliases"].items() if named == version
        ),
        "signature": entry.signature.model_dump(mode="json"),
        "signature_id": entry.signature.id,
        "digest": _text(manifest.get("digest")),
        "size_bytes": sum(size for size in sizes if isinstance(size, int)) if sizes else None,
        "created_at": _text(manifest.get("created_at")),
        "note": _text(manifest.get("note")) or "",
        "loaded": [
            {
                "worker": worker.name,
                "host": _text(worker.known.get("host")),
                "bytes": worker.versions[queue],
            }
            for worker in presence.holders(queue)
        ],
        "failed": failed_loads(presence, queue),
    }


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _answer(value: dict[str, Any]) -> Response:
    return Response(wire.dumps(value), mimetype="application/json")
