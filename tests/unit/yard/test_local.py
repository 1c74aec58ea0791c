"""The running yard's file and lock: found while it runs, no obstacle once it is gone."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from yard import local
from yard.errors import ConfigurationError
from yard.settings import Settings


def a_yard(pid: int, url: str = "unix:///tmp/r.sock") -> local.Yard:
    gateway = "http://127.0.0.1:8000"
    return local.Yard(pid, local.birth(pid), url, gateway, "/store", "2026-01-02T03:04:05Z")


def test_what_is_set_beats_the_running_yard(tmp_path):
    local.write(tmp_path, a_yard(os.getpid()))
    settings = Settings(data=str(tmp_path), redis_url="redis://elsewhere")
    assert local.redis_url(settings) == "redis://elsewhere"


def test_without_a_setting_the_running_yard_s_redis_is_used(tmp_path):
    local.write(tmp_path, a_yard(os.getpid()))
    assert local.redis_url(Settings(data=str(tmp_path))) == "unix:///tmp/r.sock"


class Yards:
    """Folders in which yards run, as far as files say: each has a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> Path:
        data = self.folder / name / "data"
        data.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        self.processes[name] = process
        local.write(data, a_yard(process.pid, f"unix:///of-{name}.sock"))
        return data

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.communicate()

    def notes(self) -> list[Path]:
        return sorted((self.folder / "state" / "modelyard" / "yards").iterdir())


@pytest.fixture
def yards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yards]:
    """No yard at first, and a current folder without one."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    started = Yards(tmp_path)
    yield started
    for name in list(started.processes):
        started.kill(name)


def test_no_redis_at_all_says_what_to_do_with_absolute_paths(yards, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for settings in (Settings(), Settings(data="data")):
        with pytest.raises(ConfigurationError) as caught:
            local.redis_url(settings)
        said = caught.value.message
        assert repr(str(tmp_path / "data")) in said
        assert "`modelyard up`" in said
        assert "MODELYARD_DATA" in said
        assert "MODELYARD_REDIS_URL" in said


def test_the_only_yard_is_found_from_any_folder_with_its_store(yards):
    yards.start("shop")
    assert local.redis_url(Settings()) == "unix:///of-shop.sock"
    joined = local.joined(Settings())
    assert (joined.redis_url, joined.store) == ("unix:///of-shop.sock", "/store")
    assert local.joined(Settings(store="mine")).store == "mine"


def test_the_yard_of_the_current_folder_comes_first(yards, monkeypatch):
    data = yards.start("shop")
    yards.start("lab")
    monkeypatch.chdir(data.parent)
    assert local.redis_url(Settings()) == "unix:///of-shop.sock"


def test_a_data_folder_that_is_set_means_no_other(yards, tmp_path):
    yards.start("shop")
    with pytest.raises(ConfigurationError, match=r"running: shop \(.*/shop/data, http://"):
        local.redis_url(Settings(data=str(tmp_path / "gone")))


def test_several_yards_are_listed_and_each_is_found_by_name_and_path(yards):
    shop, lab = yards.start("shop"), yards.start("lab")
    with pytest.raises(ConfigurationError, match=r"lab \(.*; shop \(.*--yard NAME.*MODELYARD_YARD"):
        local.redis_url(Settings())
    for name in ("shop", str(shop), str(shop.parent)):
        assert local.redis_url(Settings(yard=name)) == "unix:///of-shop.sock"
    assert local.redis_url(Settings(yard="lab", data=str(shop))) == "unix:///of-lab.sock"
    assert local.redis_url(Settings(yard="lab", redis_url="redis://set")) == "redis://set"
    with pytest.raises(ConfigurationError, match=r"no yard 'cellar' is running; running: lab \("):
        local.redis_url(Settings(yard="cellar"))
    assert [yard.data for yard in local.running_yards()] == [str(lab), str(shop)]


def test_two_yards_of_one_name_are_told_apart_by_path(yards):
    first, second = yards.start("shop"), yards.start("old/shop")
    with pytest.raises(ConfigurationError) as caught:
        local.named("shop")
    assert str(first) in caught.value.message
    assert str(second) in caught.value.message


def test_notes_of_killed_yards_are_ignored_and_removed(yards):
    yards.start("shop")
    yards.start("lab")
    assert len(yards.notes()) == 2
    yards.kill("lab")
    assert local.redis_url(Settings()) == "unix:///of-shop.sock"
    assert len(yards.notes()) == 1


def test_a_yard_that_ends_takes_its_note_along(yards):
    data = yards.start("shop")
    local.remove(data)
    assert yards.notes() == []


def test_notes_are_for_their_owner_only(yards):
    yards.start("shop")
    (note,) = yards.notes()
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert stat.S_IMODE(note.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(note.parent.parent.stat().st_mode) == 0o700


def test_notes_where_others_may_write_are_not_read(yards):
    yards.start("shop")
    yards.notes()[0].parent.chmod(0o777)
    assert local.running_yards() == []


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"pid": "x", "birth": 0, "data": "/"}'])
def test_a_broken_note_is_no_yard(yards, content):
    yards.start("shop")
    yards.notes()[0].write_bytes(content)
    assert local.running_yards() == []


@pytest.mark.parametrize("state", ["/dev/null/state", "not/absolute"])
def test_a_yard_runs_without_a_state_folder(yards, state, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", state)
    monkeypatch.setenv("HOME", "/dev/null")
    data = yards.start("shop")
    assert local.running_yards() == []
    assert local.redis_url(Settings(data=str(data))) == "unix:///of-shop.sock"


def test_a_later_process_with_the_same_id_is_not_taken_for_the_yard(tmp_path):
    known = a_yard(os.getpid())
    if known.birth == 0:
        pytest.skip("this kernel does not tell when a process started")
    file = tmp_path / "yard.json"
    local.write(tmp_path, known)
    assert local.running(tmp_path) == known
    file.write_text(json.dumps(json.loads(file.read_text()) | {"birth": known.birth - 1}))
    assert local.running(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"pid": 1}',
        b"\xff",
        b'{"pid": "x", "birth": 0, "redis_url": "", "gateway": "", "store": "", "started_at": ""}',
        b'{"pid": 0, "birth": 0, "redis_url": "", "gateway": "", "store": "", "started_at": ""}',
    ],
)
def test_a_broken_file_is_no_yard(tmp_path, content):
    (tmp_path / "yard.json").write_bytes(content)
    assert local.running(tmp_path) is None


def test_the_file_is_for_its_owner_only_and_nothing_else_is_left(tmp_path):
    local.write(tmp_path, a_yard(os.getpid()))
    local.write(tmp_path, a_yard(os.getpid()))
    assert [path.name for path in tmp_path.iterdir()] == ["yard.json"]
    assert stat.S_IMODE((tmp_path / "yard.json").stat().st_mode) == 0o600
    local.remove(tmp_path)
    local.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_holds_the_folder_and_the_next_is_told_who(tmp_path):
    held = local.hold(tmp_path)
    local.write(tmp_path, a_yard(os.getpid()))
    with pytest.raises(ConfigurationError, match=f"process {os.getpid()}.*MODELYARD_DATA"):
        local.hold(tmp_path)
    os.close(held)
    os.close(local.hold(tmp_path))


def test_the_next_waits_for_what_a_killed_yard_left_running(tmp_path):
    held = local.hold(tmp_path)
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            os.close(held)

    os.close(local.hold(tmp_path, pause=pause))
    assert len(pauses) == 3


def test_what_never_ends_is_told(tmp_path):
    held = local.hold(tmp_path)
    with pytest.raises(ConfigurationError, match="an earlier yard"):
        local.hold(tmp_path, wait_s=0.0)
    os.close(held)


def test_the_folder_is_made_for_its_owner_only(tmp_path):
    os.close(local.hold(tmp_path / "deep" / "data"))
    assert stat.S_IMODE((tmp_path / "deep" / "data").stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot be used.*MODELYARD_DATA"):
        local.hold(Path(tmp_path / "file" / "data"))
