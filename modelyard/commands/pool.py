"""``modelyard pool``: runs workers on this machine, or checks that a pool works."""

from __future__ import annotations

import click

from modelyard.options import pool_settings, redis_options, workers


@click.command(epilog="Example: modelyard pool --min 1 --max 4")
@workers
@click.option("--model", "pattern", default="*", show_default=True, help="Only models that match.")
@click.option("--store", metavar="FOLDER|URL", help="The artefact store. [store]")
@redis_options
@click.option(
    "--check",
    "is_check",
    is_flag=True,
    help="Start nothing: exit 0 if a pool here works, 1 if not.",
)
@click.option("--name", help="With --check: this pool, wherever it runs.")
def pool(
    pool_min: int | None,
    pool_max: int | None,
    pattern: str,
    store: str | None,
    redis_url: str | None,
    is_check: bool,
    name: str | None,
) -> None:
    """Run workers that load models when they are first needed and predict in batches.

    Keeps between --min and --max workers running, by the work that waits; replaces those that die
    and returns their jobs to the queue. SIGTERM or Ctrl-C drains: workers finish their batch and
    exit. A second one kills.

    With --check nothing is run: the exit status is 0 if a pool of this host, or the one given by
    --name, has looked at the queues within the last seconds, else 1, with the reason. It is meant
    for the health checks of containers.
    """
    if is_check:
        return _check(redis_url, name)
    if name is not None:
        raise click.UsageError("--name goes with --check; a pool chooses its name by itself")
    from worker.pool import Pool
    from yard import local
    from yard.broker import connections
    from yard.cluster import settle_format
    from yard.platform import logs
    from yard.settings import Settings

    settings = pool_settings(pool_min, pool_max, store=store, redis_url=redis_url)
    if settings.redis_url is None:
        settings = local.joined(settings)
    url = local.redis_url(settings)
    logs.configure(settings)
    settings = Settings.load(
        **settings.model_dump(exclude={"redis_url", "store"}),
        redis_url=url,
        store=settings.store_location,
    )
    redis = connections.steady(url)
    connections.check_server(redis)
    settle_format(redis)
    Pool(settings, url, pattern).run()


def _check(redis_url: str | None, name: str | None) -> None:
    """Print one pool that works; imports little, because health checks run it often.

    Raises:
        click.ClickException: None works.
    """
    import socket

    from yard import local
    from yard.broker import connections
    from yard.cluster import read_presence, why_no_pool_works
    from yard.platform import signals
    from yard.settings import Settings

    signals.release()
    with (
        connections.redis_reachable(),
        connections.fast(local.redis_url(Settings.load(redis_url=redis_url))) as redis,
    ):
        pools = read_presence(redis).pools
    host = socket.gethostname()
    asked = [p for p in pools if (p.name == name if name else p.known.get("host") == host)]
    working = [p for p in asked if not p.is_stuck]
    if not working:
        whose = f"pool {name}" if name else f"host {host}"
        raise click.ClickException(f"{whose}: {why_no_pool_works(asked)}")
    click.echo(f"{working[0].name} looked at the queues {working[0].looked_s:.1f} s ago")
