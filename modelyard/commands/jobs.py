"""Commands for clients: submit a job, show it, wait for it, cancel it, list the latest.

They print a job as text or, with ``--json``, as ``GET /v1/jobs/{id}`` returns it. The exit status
of a failed job is 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelyard.options import (
    common,
    examples,
    open_client,
    plain,
    print_facts,
    print_json,
    print_table,
)
from modelyard.tables import age
from yard.errors import InvalidJson, JobFailed, Timeout, TooLarge

if TYPE_CHECKING:
    from producer.client import Client
    from yard.contract import Job

#: Most rows of a result in a table; ``--json`` prints all.
_MOST_ROWS = 20

#: Most classes of which a row shows each one's value; of more, those with the largest values.
_MOST_CLASSES, _CLASSES_SHOWN = 5, 3

_STATUSES = ("queued", "started", "finished", "failed", "canceled")

_wait = click.option(
    "--wait",
    "wait_s",
    metavar="[SECONDS]",
    is_flag=False,
    flag_value=30.0,
    default=None,
    type=click.FloatRange(min=0),
    help="Wait until the job has ended, at most SECONDS, or 30 s. Put it last.",
)


@click.command(
    epilog=examples(
        "modelyard submit iris '[[5.1, 3.5, 1.4, 0.2]]' --wait",
        "modelyard submit sentiment '[\"what a lovely film\"]' --wait 5",
        "modelyard submit iris @rows.json --version v2 --json",
    )
)
@click.argument("model")
@click.argument("body", metavar="JSON")
@_wait
@click.option("--version", help="A version or an alias, instead of the one that the route chooses.")
@click.option("--routing-key", help="The same key gets the same version while the route stands.")
@click.option(
    "--deadline-ms",
    type=click.IntRange(min=1, max=2**40),
    help="Fail the job if it has not started within this many milliseconds.",
)
@click.option("--idempotency-key", help="The same key and JSON give the same job.")
@click.option(
    "--output", "outputs", metavar="NAME", multiple=True, help="Return only this output; repeat it."
)
@common
def submit(
    model: str,
    body: str,
    wait_s: float | None,
    outputs: tuple[str, ...],
    redis_url: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Queue a job, and wait for it if asked to.

    JSON is a list of rows, or an object with "instances" (rows) or "inputs" (columns by name);
    @FILE reads it from a file, - from standard input. An option wins over a member of the object.
    """
    from yard.contract import Request

    with open_client(redis_url) as client:
        asked = _read_body(body, client.settings.body_bytes)
        asked |= {name: value for name, value in options.items() if value is not None}
        if outputs:
            asked["outputs"] = list(outputs)
        handle = client.submit_request(Request(model, **asked))
        _print_job(client, handle.id, wait_s, as_json)


@click.command(epilog=examples("modelyard result ID --wait 10"))
@click.argument("job_id", metavar="ID")
@_wait
@common
def result(job_id: str, wait_s: float | None, redis_url: str | None, as_json: bool) -> None:
    """Show a job, and wait for its end if asked to."""
    with open_client(redis_url) as client:
        _print_job(client, job_id, wait_s, as_json)


@click.command(epilog=examples("modelyard cancel ID"))
@click.argument("job_id", metavar="ID")
@common
def cancel(job_id: str, redis_url: str | None, as_json: bool) -> None:
    """Cancel a job that has not ended; the output of a started one is dropped."""
    with open_client(redis_url) as client:
        _show(client.cancel(job_id), as_json)


@click.command(epilog=examples("modelyard jobs", "modelyard jobs iris --status failed --limit 5"))
@click.argument("model", required=False)
@click.option(
    "--status",
    "statuses",
    type=click.Choice(_STATUSES),
    multiple=True,
    help="Only jobs with this status; repeat it.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="At most this many.",
)
@common
def jobs(
    model: str | None, statuses: Sequence[str], limit: int, redis_url: str | None, as_json: bool
) -> None:
    """List the latest jobs, newest first."""
    from producer.recent_jobs import list_jobs
    from yard.contract import JobStatus

    with open_client(redis_url) as client:
        found = list_jobs(client.redis, model, [JobStatus(name) for name in statuses], limit)
    if as_json:
        return print_json({"jobs": [job.to_dict() for job in found]})
    if not found:
        return click.echo("No jobs.")
    headers = ("ID", "STATUS", "QUEUE", "AGE", "MS", "ERROR")
    print_table(headers, [_table_row(job) for job in found], keeps_first=True)
    return None


def _read_body(text: str, limit: int) -> dict[str, Any]:
    """Parse the JSON argument into the members of a request.

    Raises:
        TooLarge: It has more than ``limit`` bytes.
        BadParameter: It is no request.
    """
    from yard.contract import JOB_ARGUMENTS, wire

    raw = _read_source(text, limit)
    if len(raw) > limit:
        raise TooLarge(f"the JSON has more than {limit} bytes")
    try:
        value = wire.loads(raw)
    except InvalidJson as error:
        raise click.BadParameter(error.message, param_hint="JSON") from None
    if isinstance(value, list):
        return {"instances": value}
    if not isinstance(value, dict):
        raise click.BadParameter(
            'give a list of rows, or {"instances": [...]}, or {"inputs": {...}}.', param_hint="JSON"
        )
    unknown = sorted(value.keys() - JOB_ARGUMENTS)
    if unknown:
        known = ", ".join(sorted(JOB_ARGUMENTS))
        raise click.BadParameter(
            f"unknown member {plain(unknown[0][:80])!r}; there are {known}.", param_hint="JSON"
        )
    return value


def _read_source(text: str, limit: int) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read(limit + 1)
    if not text.startswith("@"):
        return text.encode("utf-8", "surrogateescape")
    try:
        with Path(text[1:]).open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise click.BadParameter(f"{text[1:]}: {error.strerror}", param_hint="JSON") from None


def _print_job(client: Client, job_id: str, wait_s: float | None, as_json: bool) -> None:
    """Print a job, after waiting for its end if ``wait_s`` is given.

    Raises:
        Timeout: Printed, but it did not end in time.
        JobFailed: Printed, but it failed or was canceled.
    """
    if wait_s is None:
        job = client.get(job_id)
    else:
        try:
            job = client.wait(job_id, wait_s)
        except Timeout:
            _show(client.get(job_id), as_json)
            raise
    _show(job, as_json)
    if job.error is not None:
        row = "" if job.error.row is None else f" (row {job.error.row})"
        raise JobFailed(f"job {job.id} failed: {job.error.code}: {job.error.message}{row}")
    job.raise_if_failed()


def _show(job: Job, as_json: bool) -> None:
    if as_json:
        print_json(job.to_dict())
    else:
        _print_text(job)


def _print_text(job: Job) -> None:
    facts = [("job", job.id), ("status", job.status.value), ("queue", job.queue)]
    facts.append(("created", job.created_at or "-"))
    if job.timings is not None:
        spent = ", ".join(f"{name} {ms:g}" for name, ms in job.timings.to_dict().items())
        batch = f" (in a batch of {job.batch_size})" if job.batch_size else ""
        facts.append(("took", f"{spent} ms{batch}"))
    print_facts(facts, 8)
    if job.result is not None:
        click.echo()
        _print_result(job.result)


def _print_result(outputs: dict[str, Any]) -> None:
    """Print one line for each row, one column for each output."""
    classes = outputs.get("classes")
    columns = {
        name: values
        for name, values in outputs.items()
        if name != "classes" and isinstance(values, list)
    }
    count = max(map(len, columns.values()), default=0)
    rows = [
        [place, *(_cell(values[place : place + 1], classes) for values in columns.values())]
        for place in range(min(count, _MOST_ROWS))
    ]
    print_table(["ROW", *map(plain, columns)], rows)
    if count > _MOST_ROWS:
        click.echo(f"... and {count - _MOST_ROWS} more rows: --json prints all")


def _cell(found: list[Any], classes: Any) -> str:
    """One row of one output as text; a value per class is shown with the class' name."""
    from yard.contract import wire

    if not found:
        return "-"
    value = found[0]
    if isinstance(value, list) and isinstance(classes, list) and len(value) == len(classes):
        return _by_class(list(zip(classes, value, strict=True)))
    return value if isinstance(value, str) else wire.dumps(value).decode()


def _by_class(parts: list[tuple[Any, Any]]) -> str:
    """``setosa: 0.98, versicolor: 0.02``; of many classes, those with the largest values."""
    more = 0
    if len(parts) > _MOST_CLASSES and all(isinstance(part, int | float) for _, part in parts):
        more = len(parts) - _CLASSES_SHOWN
        parts = sorted(parts, key=lambda pair: -pair[1])[:_CLASSES_SHOWN]
    shown = [
        f"{name}: {part:.3g}" if isinstance(part, float) else f"{name}: {part}"
        for name, part in parts
    ]
    return ", ".join(shown) + (f", {more} more" if more else "")


def _table_row(job: Job) -> tuple[Any, ...]:
    return (
        job.id,
        job.status.value,
        job.queue,
        age(job.created_at),
        job.timings.total if job.timings else None,
        job.error.code if job.error else None,
    )
