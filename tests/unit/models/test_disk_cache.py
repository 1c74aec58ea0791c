"""The folder that object stores are read through: a help, never something to rest on."""

from __future__ import annotations

import errno
import logging
import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from models.manifest import File
from models.store.disk_cache import DiskCache, cache_folder
from tests.unit.models.test_repository import IRIS_V1
from yard.errors import ConfigurationError
from yard.settings import Settings

CONTENT = b"the weights"
FILE = File.of("model.joblib", CONTENT)


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache", 1000)


def kept(cache: DiskCache) -> list[str]:
    return sorted(path.name for path in cache.folder.rglob("*") if path.is_file())


def path_of(cache: DiskCache, file: File) -> Path:
    return cache.folder / file.sha256[:2] / file.sha256


def filled(cache: DiskCache, *names: str) -> list[File]:
    """Files of 300 bytes, each read longer ago than the next."""
    files = []
    for place, name in enumerate(names):
        content = name.encode().ljust(300)
        files.append(File.of(name, content))
        cache.put(files[-1], content)
        os.utime(path_of(cache, files[-1]), (place, place))
    return files


def test_what_was_kept_is_read_back(cache):
    assert cache.read(FILE) is None
    cache.put(FILE, CONTENT)
    assert cache.read(FILE) == CONTENT


@pytest.mark.parametrize("content", [b"", b"the weight", b"THE WEIGHTS", b"the weights and more"])
def test_broken_bytes_are_never_given_out_and_go(cache, content):
    cache.put(FILE, CONTENT)
    path_of(cache, FILE).write_bytes(content)
    assert cache.read(FILE) is None
    assert kept(cache) == []
    cache.put(FILE, CONTENT)
    assert cache.read(FILE) == CONTENT


def test_a_link_in_a_files_place_is_not_followed(cache, tmp_path):
    cache.put(FILE, CONTENT)
    (tmp_path / "elsewhere").write_bytes(CONTENT)
    path_of(cache, FILE).unlink()
    path_of(cache, FILE).symlink_to(tmp_path / "elsewhere")
    assert cache.read(FILE) is None


def test_a_pipe_in_a_files_place_does_not_hang_the_reader(cache):
    cache.put(FILE, CONTENT)
    path_of(cache, FILE).unlink()
    os.mkfifo(path_of(cache, FILE))
    assert cache.read(FILE) is None


def test_what_was_read_the_longest_time_ago_makes_room(cache):
    a, b, c = filled(cache, "a", "b", "c")
    cache.read(a)
    filled(cache, "d")
    assert [file.name for file in (a, b, c) if cache.read(file) is not None] == ["a", "c"]


def test_what_is_larger_than_the_bound_is_not_kept(cache):
    filled(cache, "a", "b")
    content = b"x" * 1001
    cache.put(File.of("large", content), content)
    assert len(kept(cache)) == 2


def test_what_is_about_to_be_used_stays(cache):
    content = b"x" * 1000
    large = File.of("large", content)
    for file in filled(cache, "a", "b", "c"):
        os.utime(path_of(cache, file), (2e9 * 2, 2e9 * 2))  # by the clock of another machine
    cache.put(large, content)
    assert kept(cache) == [large.sha256]


def test_what_a_dead_writer_left_goes_and_what_is_being_written_stays(cache):
    filled(cache, "a")
    shelf = next(cache.folder.iterdir())
    for name in (".draft-old", ".draft-new"):
        (shelf / name).write_bytes(b"half")
    os.utime(shelf / ".draft-old", (0, 0))
    cache.trim()
    assert ".draft-old" not in kept(cache)
    assert ".draft-new" in kept(cache)


def test_other_folders_are_left_alone(cache, tmp_path):
    (tmp_path / "cache" / "photos").mkdir(parents=True)
    (tmp_path / "cache" / "photos" / "1.jpg").write_bytes(b"x" * 5000)
    filled(cache, "a")
    cache.trim()
    assert "1.jpg" in kept(cache)


def test_a_folder_that_cannot_be_written_is_told_once_and_no_error(tmp_path, caplog):
    (tmp_path / "cache").write_bytes(b"a file")
    cache = DiskCache(tmp_path / "cache", 1000)
    with caplog.at_level(logging.WARNING):
        cache.put(FILE, CONTENT)
        cache.put(FILE, CONTENT)
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.text
    assert cache.read(FILE) is None


def test_many_may_write_and_trim_at_once(tmp_path):
    cache = DiskCache(tmp_path / "cache", 1000)
    contents = [f"content {number}".encode().ljust(200) for number in range(20)]
    files = [File.of("m", content) for content in contents]
    wrong: list[bytes] = []

    def work() -> None:
        for file, content in zip(files, contents, strict=True):
            cache.put(file, content)
            read = cache.read(file)  # another may have evicted it
            if read not in (None, content):
                wrong.append(content)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(path.stat().st_size for path in cache.folder.rglob("*") if path.is_file()) <= 1200


def test_a_manifest_is_kept_for_its_store_and_version(cache):
    cache.put_manifest("s3://a", IRIS_V1, b"{}")
    assert cache.manifest("s3://a", IRIS_V1) == b"{}"
    assert cache.manifest("s3://b", IRIS_V1) is None


def test_the_default_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(Settings()) == tmp_path / "modelyard"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder(Settings()) == Path("/home/somebody/.cache/modelyard")


def modes(folder: Path) -> set[tuple[bool, int]]:
    found = (path.stat() for path in (folder, *folder.rglob("*")))
    return {(stat.S_ISDIR(one.st_mode), stat.S_IMODE(one.st_mode)) for one in found}


def test_what_is_cached_is_the_users_alone(cache):
    cache.put(FILE, CONTENT)
    cache.put_manifest("s3://a", IRIS_V1, b"{}")
    assert modes(cache.folder) == {(True, 0o700), (False, 0o600)}


@pytest.fixture
def without_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that a user without a home has among the temporary ones."""

    def home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"modelyard-{os.getuid()}"


def test_a_user_without_a_home_has_a_folder_of_their_own(without_home):
    assert cache_folder(Settings()) == without_home
    assert modes(without_home) == {(True, 0o700)}
    assert cache_folder(Settings()) == without_home


def anybodys(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def elsewhere(folder: Path) -> None:
    target = folder.parent / "target"
    target.mkdir(mode=0o700)
    folder.symlink_to(target)


def anothers(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(folder, 12345, 12345)


@pytest.mark.parametrize("make", [anybodys, elsewhere, anothers])
def test_a_temporary_folder_that_another_user_has_made_is_not_used(without_home, caplog, make):
    make(without_home)
    with caplog.at_level(logging.WARNING):
        folder = cache_folder(Settings())
    assert folder.parent == without_home.parent
    assert folder.name.startswith("modelyard-")
    assert folder != without_home
    assert modes(folder) == {(True, 0o700)}
    assert "is not this user's alone" in caplog.text
    assert "MODELYARD_STORE_CACHE" in caplog.text
    assert cache_folder(Settings()) == folder


def test_a_temporary_folder_that_cannot_be_replaced_is_refused(without_home, monkeypatch):
    def full(prefix: str) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    anybodys(without_home)
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(ConfigurationError, match="set MODELYARD_STORE_CACHE"):
        cache_folder(Settings())
