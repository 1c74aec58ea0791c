"""``modelyard gc``: remove what no version needs any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modelyard.commands.store_options import common, redis_or_none, repository_of
from modelyard.options import examples, plain, print_json, print_table
from yard.settings import Settings

if TYPE_CHECKING:
    from models.maintenance import Garbage


@click.command(epilog=examples("modelyard gc --dry-run", "modelyard gc --older-than 2"))
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@click.option(
    "--older-than",
    "hours",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="Leave alone in the store what was written since: a publish may be in progress.",
)
@common
def gc(
    dry_run: bool, hours: float, store: str | None, redis_url: str | None, as_json: bool
) -> None:
    """Remove what no version needs: of failed publishes, of the cache folder, of lost versions.

    In the store, what publishers that failed have left, and files that no manifest names; in this
    machine's folders with copies of a store by URL and of what workers map, what is above their
    bound; in Redis, versions that the store has no more and that nothing uses, and metrics of
    versions that are not published.
    """
    from models.maintenance import find_garbage, remove_garbage
    from models.store import mapped_copies

    settings = Settings.load(store=store, redis_url=redis_url)
    repository = repository_of(settings)
    redis, lack = redis_or_none(settings)
    caches = [cache for cache in (repository.cache, mapped_copies(settings)) if cache is not None]
    plan = find_garbage(repository, redis, hours * 3600, caches)
    removed, kept = (plan.garbage, plan.kept) if dry_run else remove_garbage(plan)
    if lack:
        kept = [*kept, ("redis", lack)]
    freed_bytes = sum(one.size_bytes for one in removed)
    if as_json:
        return print_json(
            {
                "dry_run": dry_run,
                "store": repository.location,
                "removed": [one.to_dict() for one in removed],
                "kept": [{"name": name, "why": why} for name, why in kept],
                "freed_bytes": freed_bytes,
            }
        )
    _print(removed, kept)
    if not removed:
        return click.echo("Nothing to remove.")
    verb = "would be" if dry_run else "were"
    return click.echo(f"{freed_bytes} bytes {verb} freed.")


def _print(removed: list[Garbage], kept: list[tuple[str, str]]) -> None:
    if removed:
        rows = [(one.kind, one.name, one.size_bytes, one.why) for one in removed]
        print_table(("WHERE", "NAME", "BYTES", "WHY"), rows)
    for name, why in kept:
        click.echo(plain(f"kept: {name}: {why}"))
