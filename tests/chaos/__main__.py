"""``python -m tests.chaos``: rounds of chaos, as long as you like, with the seed printed."""

from __future__ import annotations

import secrets
import sys
import tempfile
from pathlib import Path

import click

from tests.chaos.driver import run
from tests.chaos.plan import Plan


@click.command()
@click.option("--seed", type=int, help="Repeats the choices of a run; a new one by default.")
@click.option("--rounds", default=2, show_default=True, help="Rounds; each has a seed of its own.")
@click.option("--jobs", default=20_000, show_default=True, help="Jobs of a round.")
@click.option("--kills", default=50, show_default=True, help="Workers killed in a round.")
@click.option("--faults", default=40, show_default=True, help="Other faults of a round.")
@click.option("--seconds", default=240.0, show_default=True, help="How long a round takes, about.")
@click.option("--lease", "lease_s", default=3.0, show_default=True, help="The lease, in seconds.")
@click.option(
    "--appendfsync",
    type=click.Choice(["always", "everysec"]),
    help="How Redis keeps what it accepts; turn about by default.",
)
@click.option("--keep", type=click.Path(path_type=Path), help="A new folder for logs and history.")
def main(
    seed: int | None,
    rounds: int,
    jobs: int,
    kills: int,
    faults: int,
    seconds: float,
    lease_s: float,
    appendfsync: str | None,
    keep: Path | None,
) -> None:
    """Break pools, their Redis and their network at random, and check that nothing was lost."""
    first = secrets.randbelow(10**6) if seed is None else seed
    is_broken = False
    for number in range(rounds):
        plan = Plan(
            first + number,
            jobs=jobs,
            seconds=seconds,
            kills=kills,
            strikes=kills,
            faults=faults,
            lease_s=lease_s,
            appendfsync=appendfsync or ("always", "everysec")[number % 2],
        )
        click.echo(f"round {number + 1} of {rounds}: --seed {plan.seed}, {plan.appendfsync}")
        with tempfile.TemporaryDirectory(prefix="modelyard-chaos-") as temporary:
            folder = Path(temporary) if keep is None else keep / str(plan.seed)
            folder.mkdir(parents=True, exist_ok=keep is None)
            report = run(plan, folder)
        click.echo(report)
        is_broken |= bool(report.violations)
    sys.exit(is_broken)


if __name__ == "__main__":
    main()
