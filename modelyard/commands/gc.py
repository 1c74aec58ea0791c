"""``modelyard gc``: removes files and keys that no version needs any more."""

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
    help="Keep files of the store that are younger: a publish may be in progress.",
)
@common
def gc(
    dry_run: bool, hours: float, store: str | None, redis_url: str | None, as_json: bool
) -> None:
    """Remove files and keys that no version needs.

    In the store: files of failed publishes, and files that no manifest names. On this machine:
    copies of a store by URL, and files that workers map, above their bound. In Redis: versions
    that are no longer in the store and that nothing uses, and metrics of versions that are not
    published.
    """
    from models.maintenance import find_garbage, remove_garbage
    from models.store import mapped_copies

    settings = Settings.load(store=store, redis_url=redis_url)
    repository = repository_of(settings)
    redis, redis_problem = redis_or_none(settings)
    caches = [cache for cache in (repository.cache, mapped_copies(settings)) if cache is not None]
    plan = find_garbage(repository, redis, hours * 3600, caches)
    removed, kept = (plan.garbage, plan.kept) if dry_run else remove_garbage(plan)
    if redis_problem:
        kept = [*kept, ("redis", redis_problem)]
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
