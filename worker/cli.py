"""``modelyard pool``: run workers on this machine."""

from __future__ import annotations

import click


@click.command(epilog="Example: modelyard pool --min 1 --max 4")
@click.option("--min", "least", type=int, help="Workers that are kept running.")
@click.option("--max", "most", type=int, help="Workers that run at most.")
@click.option("--model", "pattern", default="*", show_default=True, help="Only models that match.")
@click.option("--store", help="Where the artefacts lie: a folder or a URL.")
@click.option("--redis-url", help="Redis to use; by default that of the running yard.")
def pool(
    least: int | None, most: int | None, pattern: str, store: str | None, redis_url: str | None
) -> None:
    """Run workers that load models when they are first needed and predict in batches.

    Starts between --min and --max workers, replaces those that die and returns their jobs, and lets
    idle ones go. SIGTERM or Ctrl-C drains: workers end their batch and leave. A second one kills.
    """
    from producer import connect, logs, yard
    from producer.settings import Settings
    from worker.pool import Pool

    if least is not None and most is None:
        most = max(least, Settings.load().pool_max)
    settings = Settings.load(pool_min=least, pool_max=most, store=store, redis_url=redis_url)
    if settings.pool_min > settings.pool_max:
        raise click.UsageError(f"--min {settings.pool_min} is above --max {settings.pool_max}")
    url = yard.redis_url(settings)
    logs.configure(settings)
    settings = Settings.load(
        **settings.model_dump(exclude={"redis_url", "store"}),
        redis_url=url,
        store=settings.store_location,
    )
    connect.check_server(connect.steady(url))
    Pool(settings, url, pattern).run()
