"""The running yard's file and lock: found while it runs, no obstacle once it is gone."""

from __future__ import annotations

import json
import os
import stat
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


def test_no_redis_at_all_says_what_to_do(tmp_path):
    with pytest.raises(ConfigurationError, match=r"modelyard up.*MODELYARD_REDIS_URL"):
        local.redis_url(Settings(data=str(tmp_path)))


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
