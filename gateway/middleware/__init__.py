"""What cuts across all calls: request ids, the log, problem responses."""

from gateway.middleware import problems, request_log
from gateway.middleware.problems import code_of, problem, problem_of, status_of
from gateway.middleware.request_log import (
    UNMATCHED,
    RequestLog,
    RequestRecord,
    note,
    noted,
    template,
)

__all__ = [
    "UNMATCHED",
    "RequestLog",
    "RequestRecord",
    "code_of",
    "note",
    "noted",
    "problem",
    "problem_of",
    "problems",
    "request_log",
    "status_of",
    "template",
]
