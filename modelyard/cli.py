"""The command line: one click group that imports a command only when it is called.

`modelyard --help` is printed from the table here, in a tenth of a second, without Redis, Flask or
NumPy. Another distribution adds a command by an entry point of the group ``modelyard.commands``.
An exception of a command becomes one line on stderr and an exit status: 1 for a failure, 2 for a
usage error or a missing installation.
"""

from __future__ import annotations

import difflib
import errno
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module, metadata
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from yard.errors import AccessDenied, ModelyardError
from yard.platform import extras, signals

ENTRY_POINTS = "modelyard.commands"


@dataclass(frozen=True, slots=True)
class Builtin:
    """A command of ours: its section in the help, a summary, ``module:attribute``, its extra."""

    section: str
    summary: str
    target: str
    extra: str | None = None


COMMANDS: Mapping[str, Builtin] = {
    "up": Builtin(
        "Run", "Everything on this machine: Redis, gateway, workers.", "up.supervisor:up"
    ),
    "gateway": Builtin("Run", "The HTTP gateway.", "commands.gateway:gateway", "gateway"),
    "pool": Builtin("Run", "A pool of workers.", "commands.pool:pool", "worker"),
    "status": Builtin("Run", "Show the running yard.", "commands.yards:status"),
    "logs": Builtin("Run", "Show the logs of the running yard.", "commands.yards:logs"),
    "stop": Builtin(
        "Run", "Stop the running yard: batches are finished first.", "commands.yards:stop"
    ),
    "publish": Builtin(
        "Models",
        "Publish a fitted estimator as a version of a model.",
        "commands.publish:publish",
        "worker",
    ),
    "quantize": Builtin(
        "Models",
        "Make a smaller version of a network, with 8-bit weights.",
        "commands.publish:quantize",
        "worker",
    ),
    "examples": Builtin(
        "Models", "Publish the example models.", "commands.publish:examples", "worker"
    ),
    "models": Builtin("Models", "List models and their versions.", "commands.routes:models"),
    "route": Builtin("Models", "Show how a model's traffic splits.", "commands.routes:route"),
    "activate": Builtin(
        "Models", "Send a model's traffic to one version.", "commands.routes:activate"
    ),
    "weights": Builtin("Models", "Split a model's traffic.", "commands.routes:weights"),
    "alias": Builtin("Models", "Give a version a second name.", "commands.routes:alias"),
    "rollback": Builtin("Models", "Restore a model's previous route.", "commands.routes:rollback"),
    "inspect": Builtin(
        "Versions",
        "Show a version: manifest, traffic, workers.",
        "commands.versions:inspect",
        "worker",
    ),
    "verify": Builtin(
        "Versions",
        "Compare versions with their manifests.",
        "commands.versions:verify",
        "worker",
    ),
    "export": Builtin(
        "Versions",
        "Write a version to a tar file or a folder.",
        "commands.transfer:export",
        "worker",
    ),
    "import": Builtin(
        "Versions",
        "Publish what `export` has written.",
        "commands.transfer:import_version",
        "worker",
    ),
    "retire": Builtin(
        "Versions", "Take a version out of service.", "commands.lifecycle:retire", "worker"
    ),
    "delete": Builtin(
        "Versions", "Delete a version for good.", "commands.lifecycle:delete", "worker"
    ),
    "gc": Builtin(
        "Versions", "Remove files and keys that no version needs.", "commands.gc:gc", "worker"
    ),
    "submit": Builtin("Jobs", "Queue a job, and wait for it if asked to.", "commands.jobs:submit"),
    "result": Builtin("Jobs", "Show a job.", "commands.jobs:result"),
    "cancel": Builtin("Jobs", "Cancel a job that has not ended.", "commands.jobs:cancel"),
    "jobs": Builtin("Jobs", "List the latest jobs.", "commands.jobs:jobs"),
    "doctor": Builtin(
        "Help", "Check this set-up, with a remedy for each fault.", "doctor.report:doctor"
    ),
    "completion": Builtin("Help", "Print a shell's completion script.", "cli:completion"),
}

#: Commands that drain on a signal, and so must not die of one while they start.
_DRAINING = ("up", "gateway", "pool")


#: Words of other tools for commands of ours.
_MEANT = {
    "deploy": "publish",
    "list": "models",
    "ls": "models",
    "predict": "submit",
    "ps": "status",
    "run": "up",
    "serve": "up",
    "start": "up",
}


class Failure(click.ClickException):
    """An error of the command line: one line and an exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = status  # type: ignore[misc]  # click means it for subclasses only

    def show(self, file: Any = None) -> None:
        """Write the line to stderr."""
        click.echo(f"error: {self.message}", file=file, err=file is None)


class Commands(click.Group):
    """A click group that finds its commands in `COMMANDS` and in the entry points."""

    @cached_property
    def targets(self) -> dict[str, str]:
        """Command -> ``module:attribute``. Our own names cannot be taken by another package."""
        added = {point.name: point.value for point in metadata.entry_points(group=ENTRY_POINTS)}
        return added | {name: f"modelyard.{known.target}" for name, known in COMMANDS.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, ours first."""
        return [name for name in COMMANDS if name in self.targets] + sorted(
            self.targets.keys() - COMMANDS.keys()
        )

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command.

        Raises:
            Failure: It, or a library that it needs, is not installed.
        """
        target = self.targets.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        if cmd_name in _DRAINING:
            signals.hold()
        else:
            signals.release()  # the parent may have held them for a command that drains
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise _not_installed(cmd_name, error) from error
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; the error for one that does not exist names those that are close."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            known = self.list_commands(ctx)
            close = difflib.get_close_matches(args[0], known, n=2) if args else []
            close += [_MEANT[args[0]]] if args and args[0] in _MEANT and not close else []
            if not close or args[0] in known:
                raise
            guess = f"{error.message} Did you mean {' or '.join(close)}?"
            raise click.UsageError(guess, ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command and turn its exceptions into `Failure`."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader of our output has left; click ends quietly
            raise _failure(ctx.invoked_subcommand or "", error) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section, from the table: nothing is imported."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            known = COMMANDS.get(name)
            section, summary = (
                (known.section, known.summary) if known else ("More", f"From {self.targets[name]}.")
            )
            sections.setdefault(section, []).append((name, summary))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands that begin with ``incomplete``, from the table, and options."""
        names = [
            CompletionItem(name, help=COMMANDS[name].summary if name in COMMANDS else None)
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


def _failure(name: str, error: Exception) -> Failure:
    """One line for an exception of a command."""
    if isinstance(error, ModelyardError):
        return Failure(error.message)
    if isinstance(error, ModuleNotFoundError):
        return _not_installed(name, error)
    redis = sys.modules.get("redis.exceptions")  # if it is not imported, it has not raised
    if redis is not None and isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        absent = import_module("yard.broker.connections").absence(error)
        is_denied = isinstance(absent, AccessDenied)
        return Failure(
            absent.message if is_denied else f"{absent.message}; `modelyard doctor` looks"
        )
    if isinstance(error, OSError) and error.strerror:
        return Failure(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
    if os.environ.get("MODELYARD_LOG_LEVEL") == "debug":
        click.echo(traceback.format_exc(), err=True)
    return Failure(
        f"unexpected {type(error).__name__}: {error} (MODELYARD_LOG_LEVEL=debug shows where)"
    )


def _not_installed(name: str, error: ModuleNotFoundError) -> Failure:
    if (error.name or "").partition(".")[0] in extras.PACKAGES:
        return Failure(f"`modelyard {name}` is not in this installation: {error}", 2)
    known = COMMANDS.get(name)
    advice = extras.advice(known.extra if known else None)
    return Failure(f"`modelyard {name}` needs {error.name}: {advice}", 2)


def _print_version(ctx: click.Context, _option: click.Parameter, is_asked: bool) -> None:
    if is_asked and not ctx.resilient_parsing:
        click.echo(f"modelyard {extras.version()}")
        ctx.exit()


@click.group(
    cls=Commands,
    name="modelyard",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings are flags, then MODELYARD_* variables, then defaults. Completion: "
    'eval "$(modelyard completion bash)", or zsh, or fish.',
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
def main() -> None:
    """Serve machine-learning models from queues.

    `modelyard up` starts everything on this machine; `modelyard doctor` says what is wrong.
    """


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes `modelyard` in a shell.

    For bash: put  eval "$(modelyard completion bash)"  into ~/.bashrc.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # click has all three
    click.echo(kind(main, {}, "modelyard", "_MODELYARD_COMPLETE").source())


if __name__ == "__main__":
    main(prog_name="modelyard")
