"""The command group: it loads a command when that is called, and reports an error in one line."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from redis.exceptions import ConnectionError as RedisConnectionError

from modelyard import cli
from yard.errors import ConfigurationError, UnknownModel
from yard.platform import extras


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments), prog_name="modelyard")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a command in the place of `modelyard doctor`."""

    def put(does: Any) -> None:
        module = ModuleType("modelyard.standin")
        module.doctor = click.Command("doctor", callback=does)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "modelyard.standin", module)
        targets = {"doctor": "modelyard.standin:doctor"}
        monkeypatch.setattr(cli.main, "targets", cli.main.targets | targets, raising=False)

    return put


def raises(error: BaseException) -> Any:
    def does() -> None:
        raise error

    return does


def test_help_lists_every_command_with_what_it_does():
    shown = run("--help").output
    for name, known in cli.COMMANDS.items():
        assert name in shown
        assert known.summary in " ".join(shown.split())


def test_the_contract_s_commands_are_there():
    promised = """up gateway pool publish models route activate weights rollback submit result jobs
    doctor completion examples"""
    assert set(promised.split()) <= set(cli.main.list_commands(click.Context(cli.main)))


def test_version_is_the_project_s():
    assert run("--version").output == f"modelyard {extras.version()}\n"
    assert extras.version()[0].isdigit()


def test_an_unknown_command_is_a_usage_error():
    result = run("no-such-command")
    assert result.exit_code == 2
    assert "no-such-command" in result.output


@pytest.mark.parametrize(
    ("typed", "meant"), [("pubish", "publish"), ("model", "models"), ("predict", "submit")]
)
def test_an_unknown_command_is_told_with_a_guess(typed: str, meant: str):
    result = run(typed, "iris")
    assert result.exit_code == 2
    assert f"No such command '{typed}'. Did you mean {meant}" in result.stderr


def test_a_word_like_no_command_gets_no_guess():
    assert "Did you mean" not in run("xylophone").stderr


def test_an_error_of_ours_is_one_line_and_status_1(command):
    command(raises(UnknownModel("no version of model 'x' is published")))
    result = run("doctor")
    assert result.exit_code == 1
    assert result.stderr == "error: no version of model 'x' is published\n"
    assert result.stdout == ""


def test_a_message_of_several_lines_becomes_one(command):
    command(raises(ConfigurationError("first\n  second")))
    assert run("doctor").stderr == "error: first second\n"


def test_redis_away_is_one_line(command):
    command(raises(RedisConnectionError("Connection refused.")))
    result = run("doctor")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: Redis does not answer: Connection refused.")
    assert result.stderr.count("\n") == 1


def test_a_file_that_cannot_be_used_is_one_line(command):
    command(raises(PermissionError(13, "Permission denied", "/somewhere")))
    assert run("doctor").stderr == "error: Permission denied: /somewhere\n"


def test_what_nobody_foresaw_is_one_line_and_names_the_way_to_more(command, monkeypatch):
    monkeypatch.delenv("MODELYARD_LOG_LEVEL", raising=False)
    command(raises(ZeroDivisionError("oh")))
    result = run("doctor")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: unexpected ZeroDivisionError: oh (MODELYARD_LOG_LEVEL")
    assert "Traceback" not in result.stderr
    monkeypatch.setenv("MODELYARD_LOG_LEVEL", "debug")
    assert "Traceback" in run("doctor").stderr


@pytest.mark.parametrize(
    ("name", "extra"), [("gateway", "gateway"), ("pool", "worker"), ("publish", "worker")]
)
def test_a_missing_library_names_the_extra_and_gives_status_2(name, extra, monkeypatch):
    def no_flask(_name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'flask'", name="flask")

    monkeypatch.setattr(cli, "import_module", no_flask)
    result = run(name)
    assert result.exit_code == 2
    advice = f"pip install 'modelyard[{extra}]'"
    assert result.stderr == f"error: `modelyard {name}` needs flask: {advice}\n"


def test_every_command_s_home_is_there():
    for name, target in cli.main.targets.items():
        module, _, attribute = target.partition(":")
        assert isinstance(getattr(import_module(module), attribute), click.Command), name


def test_a_library_that_is_missed_only_while_the_command_runs_is_told_in_the_same_way(command):
    command(raises(ModuleNotFoundError("No module named 'orjson'", name="orjson")))
    result = run("doctor")
    assert result.exit_code == 2
    assert result.stderr == "error: `modelyard doctor` needs orjson: pip install modelyard\n"


def test_a_command_whose_module_is_not_there_is_no_missing_extra(monkeypatch):
    monkeypatch.setattr(cli.main, "targets", {"models": "modelyard.nowhere:models"}, raising=False)
    result = run("models")
    assert result.exit_code == 2
    assert "not in this installation" in result.stderr


def test_another_package_cannot_take_the_place_of_one_of_our_commands(monkeypatch):
    point = ModuleType("point")
    point.name, point.value = "doctor", "evil:doctor"  # type: ignore[attr-defined]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [point])
    assert cli.Commands("modelyard").targets["doctor"] == "modelyard.doctor.report:doctor"


def test_another_package_can_add_a_command(monkeypatch):
    point = ModuleType("point")
    point.name, point.value = "drift", "elsewhere.cli:drift"  # type: ignore[attr-defined]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [point])
    group = cli.Commands("modelyard")
    assert "drift" in group.list_commands(click.Context(group))
    assert "From elsewhere.cli:drift." in CliRunner().invoke(group, ["--help"]).output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_shell_s_script(shell):
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_MODELYARD_COMPLETE" in result.output


def test_completing_a_command_imports_none():
    context = click.Context(cli.main)
    before = set(sys.modules)
    found = [item.value for item in cli.main.shell_complete(context, "ro")]
    assert found == ["route", "rollback"]
    assert not {name for name in set(sys.modules) - before if name.startswith("modelyard.")}
