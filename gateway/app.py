"""The application: puts the parts together."""

from __future__ import annotations

import asyncio
import os

from flask_openapi.models.info import Info
from flask_openapi.models.schema import Schema
from flask_openapi.openapi import OpenAPI

from gateway.api import (
    BLUEPRINTS,
    REQUESTS,
    Pages,
    Problem,
    configure_flask,
    query_names,
    registry_for,
)
from gateway.http import Threads
from gateway.middleware import RequestLog, add_safe_headers, assign_request_id, check_message
from gateway.services import AsyncClient, BodyProcesses, Services, attach
from producer.client import Client
from yard.platform import extras
from yard.settings import Settings

_ABOUT = (
    "Models are served from queues: submit a job, then wait for it or ask for it. "
    "Errors are problem details (RFC 9457) with a stable `code`; a 4xx means that no job exists."
)


def create_app(settings: Settings, client: Client, loop: asyncio.AbstractEventLoop) -> OpenAPI:
    """Returns the application of Flask, with its services; `gateway.server.rsgi` serves it.

    Args:
        settings: Bounds.
        client: Submits and reads jobs; all other reads use its Redis, too.
        loop: The event loop, which must not run on a thread that runs views of Flask.
    """
    app = OpenAPI(
        __name__,
        info=Info(title="Modelyard", version=extras.version(), description=_ABOUT),
        validation_error_model=Problem,
        validation_error_status="default",
        doc_ui=False,
        static_folder=None,
    )
    app.openapi_version = "3.1.0"
    app.url_map.merge_slashes = False  # a redirect would repeat the Host that a caller made up
    has_files = "PROMETHEUS_MULTIPROC_DIR" in os.environ
    registry = registry_for(client.redis, settings, has_files=has_files)
    # Every request passes these in this order, before its body is read (`gateway.middleware`).
    middleware = (
        assign_request_id,
        RequestLog(None if has_files else registry),
        add_safe_headers,
        check_message,
    )
    threads = Threads(settings.gateway_threads)
    async_client = AsyncClient(client, loop, threads, settings.gateway_waits)
    # Their clients are as this one, whose Redis may have been found elsewhere.
    processes = BodyProcesses(settings.model_copy(update={"redis_url": client.url}))
    attach(
        app,
        Services(settings, client, loop, async_client, processes, threads, middleware, registry),
    )
    configure_flask(app, query_names(BLUEPRINTS))
    for blueprint in BLUEPRINTS:
        app.register_api(blueprint)
    app.components_schemas |= {
        model.__name__: Schema(**model.model_json_schema()) for model in REQUESTS
    }
    app.register_blueprint(Pages(app).blueprint())
    return app
