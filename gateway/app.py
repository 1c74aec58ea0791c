"""The application: puts the parts together, and nothing else."""

from __future__ import annotations

import asyncio
import os

from flask_openapi.models.info import Info
from flask_openapi.models.schema import Schema
from flask_openapi.openapi import OpenAPI

from gateway.api import BLUEPRINTS, REQUESTS, Pages, Problem, registry_for
from gateway.http import Threads
from gateway.middleware import problems, request_log
from gateway.services import AsyncClient, Services, attach
from producer.client import Client
from yard.platform import extras
from yard.settings import Settings

_ABOUT = (
    "Models are served from queues: submit a job, then wait for it or ask for it. "
    "Errors are problem details (RFC 9457) with a stable `code`; a 4xx means that no job exists."
)


def create_app(settings: Settings, client: Client, loop: asyncio.AbstractEventLoop) -> OpenAPI:
    """The gateway as an application of Flask; `gateway.server.rsgi` stands before it.

    Args:
        settings: Bounds.
        client: Submits and reads jobs, on the Redis that everything else is read from, too.
        loop: The event loop that answers direct calls; it runs on another thread than views do.
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
    observer = request_log.RequestLog(None if has_files else registry)
    threads = Threads(settings.gateway_threads)
    waits = AsyncClient(client, loop, threads, settings.gateway_waits)
    attach(app, Services(settings, client, loop, waits, threads, observer, registry))
    request_log.install(app, observer)
    problems.install(app)
    for blueprint in BLUEPRINTS:
        app.register_api(blueprint)
    app.components_schemas |= {
        model.__name__: Schema(**model.model_json_schema()) for model in REQUESTS
    }
    app.register_blueprint(Pages(app).blueprint())
    return app
