"""Artefacts that workers share: a read-only copy, checked where it is mapped."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor

from models.manifest import File
from models.publish.publisher import publish
from models.runtimes import load
from models.store.disk_cache import DiskCache
from models.store.mmap import Maps
from models.store.repository import Repository
from yard.contract.values import ModelRef

CONTENT = b"0123456789" * 1000
FILE = File.of("model.joblib", CONTENT)


@pytest.fixture
def maps(tmp_path: Path) -> Maps:
    return Maps(DiskCache(tmp_path / "mapped", 2**30), 1000, sharers=4)


def read() -> bytes:
    return CONTENT


def unread() -> bytes:
    raise AssertionError("the copy should have been there")


def copy_of(maps: Maps) -> Path:
    with maps.open(FILE, read) as mapped:
        assert mapped is not None
        return mapped.path


def content_of(maps: Maps, get=read) -> bytes | None:
    with maps.open(FILE, get) as mapped:
        return None if mapped is None else Path(mapped.descriptor_path).read_bytes()


def test_a_file_is_copied_once_and_found_by_its_digest(maps: Maps):
    assert content_of(maps) == CONTENT
    assert content_of(maps, unread) == CONTENT


def test_nobody_else_can_write_to_a_copy_and_only_its_owner_sees_it(maps: Maps):
    path = copy_of(maps)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("tamper", ["bytes", "length", "mode", "link"])
def test_a_copy_that_is_not_as_it_must_be_is_made_anew(maps: Maps, tamper: str, tmp_path: Path):
    path = copy_of(maps)
    path.chmod(0o600)
    if tamper == "bytes":
        path.write_bytes(CONTENT[::-1])
        path.chmod(0o400)
    elif tamper == "length":
        path.write_bytes(CONTENT[:-1])
        path.chmod(0o400)
    elif tamper == "link":
        (tmp_path / "elsewhere").write_bytes(CONTENT)
        path.unlink()
        path.symlink_to(tmp_path / "elsewhere")
    assert content_of(maps) == CONTENT
    assert stat.S_IMODE(path.lstat().st_mode) == 0o400
    assert not path.is_symlink()


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_can_write_to_is_not_used(maps: Maps, mode: int):
    folder = copy_of(maps).parent
    folder.chmod(mode)
    assert content_of(maps) is None
    folder.chmod(0o700)
    folder.parent.chmod(mode)
    assert content_of(maps) is None


def test_a_folder_that_is_a_link_is_not_used(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "mapped").symlink_to(tmp_path / "elsewhere")
    assert content_of(Maps(DiskCache(tmp_path / "mapped", 2**30), 1000)) is None


def test_what_is_open_stays_what_was_checked_when_the_copy_is_replaced(maps: Maps):
    with maps.open(FILE, read) as mapped:
        assert mapped is not None
        other = mapped.path.with_name("other")
        other.write_bytes(CONTENT[::-1])
        other.replace(mapped.path)
        assert Path(mapped.descriptor_path).read_bytes() == CONTENT


def test_small_files_and_those_beyond_the_bound_are_not_copied(tmp_path: Path):
    for limit_bytes, least_bytes in ((2**30, len(CONTENT) + 1), (len(CONTENT) - 1, 1)):
        maps = Maps(DiskCache(tmp_path / "mapped", limit_bytes), least_bytes)
        assert content_of(maps, unread) is None
    assert not (tmp_path / "mapped").exists()


def test_the_copy_that_was_used_the_longest_time_ago_makes_room(tmp_path: Path):
    maps = Maps(DiskCache(tmp_path / "mapped", 2 * len(CONTENT)), 1)
    contents = [bytes([n]) * len(CONTENT) for n in range(3)]
    paths = []
    for age, content in enumerate(contents):
        with maps.open(File.of("a", content), partial(bytes, content)) as mapped:
            assert mapped is not None
            paths.append(mapped.path)
        os.utime(paths[-1], (1000 + age, 1000 + age))
    assert [path.exists() for path in paths] == [False, True, True]


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 1,000 bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_means_that_nothing_is_mapped_and_nothing_is_left(
    maps: Maps, tmp_path: Path, small_files
):
    assert content_of(maps) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# Estimators


def repository(folder: Path, estimator: object, rows: list[list[float]]) -> Repository:
    store = Repository(folder / "store")
    publish(store, None, estimator, "wide", "v1", rows, compile=False)
    return store


def mapped_bytes(path_part: str) -> int:
    """Bytes of this process' memory that are of files in a folder."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if path_part in line:
            start, _, end = line.split()[0].partition("-")
            total += int(end, 16) - int(start, 16)
    return total


WIDE = 50_000


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, list[list[float]]]:
    rows = [[1.0, 2.0], [2.0, 1.0]]
    net = MLPRegressor(hidden_layer_sizes=(WIDE,), max_iter=1, random_state=0)
    with pytest.warns(ConvergenceWarning):
        net.fit(np.array(rows), [0.0, 1.0])
    return repository(tmp_path_factory.mktemp("wide"), net, rows), rows


def test_a_mapped_estimator_answers_bit_by_bit_as_one_in_memory(wide, maps: Maps, tmp_path: Path):
    store, rows = wide
    manifest = store.manifest(ModelRef("wide", "v1"))
    store.maps = None
    in_memory = load(manifest, store)
    store.maps = maps
    mapped = load(manifest, store)
    assert mapped_bytes(str(tmp_path)) >= 2 * WIDE * 8
    assert mapped.predict(rows) == in_memory.predict(rows)
    assert mapped.size_bytes < in_memory.size_bytes / 2  # a quarter of what four workers share


def test_the_file_is_never_written_whatever_the_model_does(wide, maps: Maps):
    store, _ = wide
    store.maps = maps
    manifest = store.manifest(ModelRef("wide", "v1"))
    model = load(manifest, store)
    weights = model._estimator.coefs_[0]  # type: ignore[attr-defined]
    assert isinstance(weights, np.memmap)
    weights[:] = 0.0
    raw = manifest.file()
    with maps.open(raw, unread) as mapped:
        assert mapped is not None
        assert hashlib.sha256(Path(mapped.descriptor_path).read_bytes()).hexdigest() == raw.sha256


def test_a_compressed_artefact_is_read_into_memory(tmp_path: Path, maps: Maps):
    path = tmp_path / "model.joblib"
    joblib.dump(LinearRegression().fit(np.eye(200), range(200)), path, compress=1)
    store = repository(tmp_path, path, np.eye(200)[:1].tolist())
    store.maps = Maps(DiskCache(tmp_path / "mapped", 2**30), 1)
    assert load(store.manifest(ModelRef("wide", "v1")), store).size_bytes > 0
    assert mapped_bytes(str(tmp_path / "mapped")) == 0
