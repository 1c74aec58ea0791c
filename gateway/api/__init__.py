"""The HTTP calls: jobs, models, routes, scaling, health and metrics, and their description."""

from gateway.api import health, jobs, metrics, models, routes, scaling
from gateway.api.async_views import AsyncView, AsyncViewIndex
from gateway.api.docs import Pages
from gateway.api.flask_views import configure
from gateway.api.metrics import registry_for
from gateway.api.openapi import REQUESTS
from gateway.api.schemas import Problem

#: Every call, as Flask finds it and as the OpenAPI document lists it.
BLUEPRINTS = tuple(module.blueprint for module in (jobs, models, routes, scaling, health, metrics))

#: The calls that the event loop answers.
ASYNC_VIEWS = (*jobs.async_views.views, *health.async_views.views)

__all__ = [
    "ASYNC_VIEWS",
    "BLUEPRINTS",
    "REQUESTS",
    "AsyncView",
    "AsyncViewIndex",
    "Pages",
    "Problem",
    "configure",
    "registry_for",
]
