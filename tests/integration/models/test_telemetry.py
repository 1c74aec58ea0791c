"""What serves models sends nothing to anybody, and leaves nothing in the user's home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.sandbox import syscall_filter

#: Ends the process with SIGSYS at the first socket but a local one, by which libc asks for names of
#: users.
NO_SOCKETS = """
import platform, struct, sys
from models.sandbox import syscall_filter
from yard.platform import prctl

machine = list(syscall_filter._ARCHITECTURES).index(platform.machine())
number = syscall_filter._REFUSED["socket"][machine]
code = [(0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 16), (0x15, 1, 0, 1)]
code += [(6, 0, 0, 0x80000000), (6, 0, 0, 0x7FFF0000)]
prctl.forbid_new_privileges()
if not prctl.filter_calls(b"".join(struct.pack("=HBBI", *one) for one in code)):
    sys.exit("no filter")
"""
PUBLISH = """
import os
from pathlib import Path
from sklearn.linear_model import LogisticRegression
from modelyard import publish
from models import Repository
from models.runtimes import load

rows = [[0.0, 1.0], [1.0, 0.0], [0.5, 2.0], [2.0, 0.5]]
store = Repository(Path("store"))
manifest = publish(store, None, LogisticRegression().fit(rows, [0, 1, 0, 1]), "m", "v1", rows)
load(manifest, store).predict(rows)
import bench.floor, onnxruntime  # whatever did not import it yet
print(os.environ["ORT_DISABLE_TELEMETRY"])
for name in os.listdir("/proc/self/fd"):
    try:
        found = os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:  # that of the listing
        continue
    if int(name) > 2 and os.path.isabs(found):
        print(found)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def run(code: str, home: Path, **more: str) -> str:
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    root = Path(__file__).parents[3]
    environ["PYTHONPATH"] = str(root)
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=home.parent,
        env=environ | more,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


@pytest.mark.skipif(syscall_filter.program(1) is None, reason="no filter for this machine")
def test_publishing_and_serving_leave_no_file_at_home_and_open_no_connection(home):
    assert run(NO_SOCKETS + PUBLISH, home).split() == ["1"]
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize("first", ["modelyard", "worker.tasks", "bench.floor", "tests.conftest"])
def test_telemetry_is_off_whatever_is_imported_first(home, first):
    code = f"import os, {first}, onnxruntime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert run(code, home) == "1\n"
    assert list(home.rglob("*")) == []


def test_what_the_user_has_decided_stays(home):
    code = "import os, modelyard; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert run(code, home, ORT_DISABLE_TELEMETRY="0") == "0\n"
