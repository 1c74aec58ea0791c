"""The contract between the parts: values, their wire form, and the Redis keys."""

from yard.contract import keys, lenient, timestamps, wire
from yard.contract.ids import new_id
from yard.contract.keys import parse_queue, queue_name
from yard.contract.payload import (
    JOB_ARGUMENTS,
    MAX_PAYLOAD_BYTES,
    Call,
    decode_call,
    encode_call,
    inflate_payload,
)
from yard.contract.timestamps import format_time, parse_epoch_s, parse_time
from yard.contract.validation import MAX_INPUT_ERRORS, check_outputs, check_rows
from yard.contract.values import (
    TASK_NAME,
    Column,
    ColumnType,
    Failure,
    Job,
    JobStatus,
    ModelRef,
    Output,
    Request,
    Route,
    Signature,
    Task,
    Timings,
    check_job_id,
    check_name,
    is_job_id,
    is_name,
)

__all__ = [
    "JOB_ARGUMENTS",
    "MAX_INPUT_ERRORS",
    "MAX_PAYLOAD_BYTES",
    "TASK_NAME",
    "Call",
    "Column",
    "ColumnType",
    "Failure",
    "Job",
    "JobStatus",
    "ModelRef",
    "Output",
    "Request",
    "Route",
    "Signature",
    "Task",
    "Timings",
    "check_job_id",
    "check_name",
    "check_outputs",
    "check_rows",
    "decode_call",
    "encode_call",
    "format_time",
    "inflate_payload",
    "is_job_id",
    "is_name",
    "keys",
    "lenient",
    "new_id",
    "parse_epoch_s",
    "parse_queue",
    "parse_time",
    "queue_name",
    "timestamps",
    "wire",
]
