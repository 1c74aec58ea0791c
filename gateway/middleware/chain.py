"""The chain of middleware that every request passes: members, then the endpoint.

Each member gets the request's head and a handler that runs what comes after it. A member can answer
by itself, and then neither later members nor the endpoint run; it can also amend the response that
the handler returns. The endpoint reads the body and runs the view.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from gateway.http import HttpResponse, RequestHead
from gateway.middleware.problems import problem_of

#: Answers a request.
Handler = Callable[[RequestHead], Awaitable[HttpResponse]]

#: A member of the chain: answers a request, for which it may call the handler that comes next.
Middleware = Callable[[RequestHead, Handler], Awaitable[HttpResponse]]

#: The server's own kind of request, which it passes in and its endpoint gets back.
R = TypeVar("R", bound=RequestHead)


class MiddlewareChain(Generic[R]):
    """Passes requests through its members to an endpoint.

    An exception becomes a problem response where it is raised, so that each member sees a response.

    Args:
        members: The outermost first.
        endpoint: Reads the body and answers.
    """

    def __init__(
        self, members: Sequence[Middleware], endpoint: Callable[[R], Awaitable[HttpResponse]]
    ) -> None:
        handler = _guarded(endpoint)
        for member in reversed(members):
            handler = _guarded(member, handler)
        self._handler = handler

    def __call__(self, request: R) -> Awaitable[HttpResponse]:
        """Returns the response to a request; raises nothing but a cancellation."""
        return self._handler(request)


def _guarded(step: Callable[..., Awaitable[HttpResponse]], *rest: Handler) -> Handler:
    """Returns a handler that answers an exception of ``step`` by a problem."""

    async def handler(request: Any) -> HttpResponse:
        try:
            return await step(request, *rest)
        except Exception as error:
            return problem_of(error)

    return handler
