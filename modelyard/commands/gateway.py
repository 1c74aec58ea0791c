"""``modelyard gateway``: runs the HTTP gateway, or checks that it serves."""

from __future__ import annotations

import click

from modelyard.options import redis_options


@click.command(epilog="Example: modelyard gateway --port 8080 --processes 2")
@click.option("--host", metavar="ADDRESS", help="Address to listen on. [127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on. [8000]")
@click.option("--processes", type=click.IntRange(1, 64), help="Gateway processes. [1]")
@click.option(
    "--threads",
    type=click.IntRange(4, 4096),
    help="Calls that one process works on at once, those about jobs aside. [32]",
)
@redis_options
@click.option(
    "--check",
    "is_check",
    is_flag=True,
    help="Start nothing: exit 0 if the gateway at --host and --port serves, 1 if not.",
)
@click.pass_context
def gateway(
    ctx: click.Context,
    /,
    host: str | None,
    port: int | None,
    processes: int | None,
    threads: int | None,
    redis_url: str | None,
    is_check: bool,
) -> None:
    """Serve the HTTP API: submit jobs, wait for them, see and change routes.

    The address has /docs to browse the API, /healthz, /readyz and /metrics. SIGTERM or Ctrl-C
    stops it: requests that wait for a job get an answer within 5 s, and their jobs live on.
    """
    from yard.settings import Settings

    settings = Settings.load(
        host=host,
        port=port,
        gateway_processes=processes,
        gateway_threads=threads,
        redis_url=redis_url,
    )
    if is_check:
        from gateway import endpoint

        is_alive, detail = endpoint.ask_alive(settings.host, settings.port, timeout_s=3.0)
        if not is_alive:
            click.echo(f"{endpoint.address(settings.host, settings.port)}: {detail}", err=True)
        ctx.exit(0 if is_alive else 1)
    from gateway.server import serve

    serve(settings)
