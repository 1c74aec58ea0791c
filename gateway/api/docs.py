"""The OpenAPI document, made from the views and their models, and a page to browse it.

The page is Swagger UI from the files in ``flask-openapi[swagger]``; it loads nothing from other
hosts. The template there has an inline script, which our Content-Security-Policy forbids, so the
page and its script are written here.
"""

from __future__ import annotations

from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable

from flask import Blueprint, Response, abort, request
from flask_openapi.openapi import OpenAPI

from yard.contract import wire
from yard.platform import extras

_PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Modelyard: HTTP API</title>
<link rel="icon" href="/docs/assets/swagger.svg">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<noscript>This page needs JavaScript. The API's description is <a href="/openapi.json">here</a>.
</noscript>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/assets/start.js"></script>
</body>
</html>
"""

_START = b"""SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#page",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null,
});
"""

#: The usual policy, and data: URLs, which Swagger UI draws its icons from.
_POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"

#: File -> its folder in the package of Swagger UI, and its type.
_ASSETS = {
    "swagger-ui.css": ("css", "text/css"),
    "swagger-ui-bundle.js": ("js", "text/javascript"),
    "swagger.svg": ("images", "image/svg+xml"),
}


#: Kinds of answers at the root; the first is for clients that take any.
_KINDS = ("application/json", "text/html")
_LINKS = {
    "models": "/v1/models",
    "scaling": "/v1/scaling",
    "health": "/healthz",
    "ready": "/readyz",
    "metrics": "/metrics",
    "openapi": "/openapi.json",
    "docs": "/docs",
}


class Pages:
    """The OpenAPI document and its page, for one application."""

    def __init__(self, app: OpenAPI) -> None:
        self._app = app

    @cached_property
    def document(self) -> bytes:
        """The OpenAPI document, made at its first request."""
        document = self._app.api_doc
        for path in document["paths"].values():
            for (
                operation
            ) in path.values():  # flask-openapi ends each line of a docstring by a break
                text = operation.get("description", "").replace("<br/>", " ").strip()
                operation["description"] = text
        return wire.dumps(document)

    def blueprint(self) -> Blueprint:
        """Returns the routes of the document, the page and its files."""
        pages = Blueprint("docs", __name__)
        pages.add_url_rule("/", "root", self.root)
        pages.add_url_rule("/openapi.json", "openapi", self.openapi)
        pages.add_url_rule("/docs", "page", self.page)
        pages.add_url_rule("/docs/assets/<name>", "asset", self.asset)
        return pages

    def root(self) -> Response:
        """Leads a browser to the page, and answers programs with links."""
        if request.accept_mimetypes.best_match(_KINDS) == "text/html":
            response = Response(status=303, headers={"Location": "/docs"})  # never a caller's Host
        else:
            known = {"name": "modelyard", "version": extras.version(), "links": _LINKS}
            response = Response(wire.dumps(known), mimetype="application/json")
        response.vary.add("Accept")
        return response

    def openapi(self) -> Response:
        """Answers with the document."""
        return Response(self.document, mimetype="application/json")

    def page(self) -> Response:
        """Answers with the page."""
        response = Response(_PAGE, mimetype="text/html")
        response.headers["Content-Security-Policy"] = _POLICY
        return response

    def asset(self, name: str) -> Response:
        """Answers with a file of the page."""
        if name == "start.js":
            return Response(_START, mimetype="text/javascript")
        if name not in _ASSETS:
            abort(404)
        folder, mimetype = _ASSETS[name]
        response = Response((_swagger() / folder / name).read_bytes(), mimetype=mimetype)
        response.headers["Cache-Control"] = "max-age=3600"
        return response


def _swagger() -> Traversable:
    return files("flask_openapi_swagger") / "templates" / "swagger"
