"""The HTTP API: jobs, models, routes, scaling, health, metrics, and its OpenAPI document."""

from gateway.api import health, jobs, metrics, models, routes, scaling
from gateway.api.async_views import AsyncView, AsyncViewIndex
from gateway.api.docs import Pages
from gateway.api.flask_views import configure_flask
from gateway.api.metrics import registry_for
from gateway.api.openapi import REQUESTS, query_names
from gateway.api.schemas import Problem

#: Every operation, for Flask's routing and for the OpenAPI document.
BLUEPRINTS = tuple(module.blueprint for module in (jobs, models, routes, scaling, health, metrics))

#: Operations that the event loop answers.
ASYNC_VIEWS = (*jobs.async_views.views, *health.async_views.views)

__all__ = [
    "ASYNC_VIEWS",
    "BLUEPRINTS",
    "REQUESTS",
    "AsyncView",
    "AsyncViewIndex",
    "Pages",
    "Problem",
    "configure_flask",
    "query_names",
    "registry_for",
]
