"""The folder in which workers run: empty, of one user, and gone with the process that made it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from yard.platform import work_folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_empty_and_goes_with_what_is_in_it(temporary):
    with work_folder() as folder:
        assert list(Path(folder).iterdir()) == []
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        (Path(folder) / "written").touch()
    assert list(temporary.iterdir()) == []


def test_those_of_killed_processes_go_and_no_others(temporary):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f"{ended.pid}-a", f"{os.getpid()}-b", "c"):
        (temporary / f"modelyard-work-{name}").mkdir()
    with work_folder():
        pass
    left = sorted(path.name for path in temporary.iterdir())
    assert left == [f"modelyard-work-{os.getpid()}-b", "modelyard-work-c"]


def test_where_none_can_be_made_it_is_the_root_and_not_the_users(temporary, monkeypatch, caplog):
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "gone"))
    with work_folder() as folder:
        assert folder == "/"
    assert "workers run in /" in caplog.text
