"""The disk cache of a process that may not write long files, as on a full disk."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from tests.helpers import ROOT


def test_a_full_disk_leaves_no_half_file(tmp_path):
    """A bound on the length of files ends a write as a full disk does."""
    code = (
        "import sys, pathlib; from models.store.disk_cache import DiskCache; "
        "from models.manifest import File; content = b'x' * 10000; "
        "cache = DiskCache(pathlib.Path(sys.argv[1]), 10**6); "
        "cache.put(File.of('m', content), content)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cache")],
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
