"""The one seam for what cuts across all calls: a chain of middleware before a body is read.

Every request passes the chain (`MiddlewareChain`), whether the event loop answers it or a view of
Flask. A member is a coroutine of the request's head and of the rest of the chain::

    async def check_host(request: RequestHead, call_next: Handler) -> HttpResponse:
        if request.fields.get("host", "") not in ALLOWED:
            return problem(400, "bad_host", "Bad host", "...")  # the body stays unread
        response = await call_next(request)  # reads the body and runs the view
        return response.with_headers(("Vary", "Host"))

``call_next`` returns a response, always: exceptions of later members and of views are problem
responses by then, and a member refuses by raising one of `yard.errors`, too. Members run on the
event loop and must not block it.

To add a member, write it in a module of its own here and name it in the tuple in `gateway.app`; the
first in the tuple is the outermost.
"""

from gateway.middleware.chain import Handler, Middleware, MiddlewareChain
from gateway.middleware.message_checks import check_message
from gateway.middleware.problems import code_of, problem, problem_of, status_of
from gateway.middleware.request_ids import assign_request_id
from gateway.middleware.request_log import RequestLog
from gateway.middleware.safe_headers import add_safe_headers

__all__ = [
    "Handler",
    "Middleware",
    "MiddlewareChain",
    "RequestLog",
    "add_safe_headers",
    "assign_request_id",
    "check_message",
    "code_of",
    "problem",
    "problem_of",
    "status_of",
]
