"""The store: a version is there whole or not at all, and what is read is what was published."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from models.manifest import File, Manifest, build
from models.store.repository import STAGING, STAGING_TTL_S, Repository
from tests.helpers.stand_ins import IRIS, ROW
from yard.contract.values import ModelRef
from yard.errors import (
    InvalidManifest,
    InvalidName,
    ModelUnavailable,
    UnknownModel,
    UnknownVersion,
    VersionExists,
)

IRIS_V1 = ModelRef("iris", "v1")
CONTENT = b"the weights"


def manifest_of(
    content: bytes = CONTENT, ref: ModelRef = IRIS_V1, name: str = "model.joblib", **changes: Any
) -> Manifest:
    fields: dict[str, Any] = {
        "model": ref.model,
        "version": ref.version,
        "format": "joblib",
        "runtime": "sklearn",
        "files": (File.of(name, content),),
        "signature": IRIS,
        "example": (ROW,),
        "created_at": "2026-01-02T03:04:05Z",
    }
    return build(**fields | changes)


@pytest.fixture
def store(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "store")


@pytest.fixture
def filled(store: Repository) -> Repository:
    """A store with iris@v1."""
    store.publish(manifest_of(), {"model.joblib": CONTENT})
    return store


def artefact(store: Repository) -> Path:
    return store.root / "iris" / "v1" / "model.joblib"


def left_over(store: Repository) -> list[str]:
    staging = store.root / STAGING
    return os.listdir(staging) if staging.exists() else []


def test_a_published_version_lies_beside_its_manifest_and_is_read_back(store):
    source = store.root.parent / "fitted.joblib"
    source.write_bytes(CONTENT)
    store.publish(manifest_of(), {"model.joblib": source})
    assert sorted(os.listdir(store.root / "iris" / "v1")) == ["manifest.json", "model.joblib"]
    assert store.manifest(IRIS_V1) == manifest_of()
    assert store.read(IRIS_V1) == store.read(IRIS_V1, "model.joblib") == CONTENT


def test_models_and_versions_are_listed_in_order(store):
    for name in ("iris@v2", "iris@v1", "diabetes@v1"):
        ref = ModelRef(*name.split("@"))
        store.publish(manifest_of(ref=ref), {"model.joblib": CONTENT})
    assert store.models() == ["diabetes", "iris"]
    assert store.versions("iris") == ["v1", "v2"]


def test_an_empty_store_has_no_models(store):
    assert store.models() == []
    with pytest.raises(UnknownModel):
        store.versions("iris")
    with pytest.raises(UnknownModel):
        store.manifest(IRIS_V1)


def test_what_is_not_published_is_unknown(filled):
    with pytest.raises(UnknownVersion, match="'v9'"):
        filled.manifest(ModelRef("iris", "v9"))
    with pytest.raises(UnknownVersion):
        filled.read(ModelRef("iris", "v9"))
    with pytest.raises(UnknownModel, match="'wine'"):
        filled.manifest(ModelRef("wine", "v1"))


@pytest.mark.parametrize("name", ["../iris", "..", ".staging", "/etc", "iris/v1", "iris\n"])
def test_a_name_cannot_leave_the_store(filled, name):
    with pytest.raises(InvalidName):
        filled.versions(name)
    with pytest.raises(InvalidName):
        ModelRef(name, "v1")


def test_folders_that_are_no_versions_are_not_listed(filled):
    for path in (".hidden/v1", "UPPER/v1", "wine/.staged", "empty/v1", "iris/no manifest"):
        (filled.root / path).mkdir(parents=True)
    for path in (".hidden/v1", "UPPER/v1", "wine/.staged", "iris/no manifest"):
        (filled.root / path / "manifest.json").write_bytes(b"{}")
    (filled.root / "notes.txt").write_text("x")
    assert filled.models() == ["iris"]
    assert filled.versions("iris") == ["v1"]


def test_publishing_the_same_again_changes_nothing(filled):
    before = (filled.root / "iris" / "v1").stat().st_mtime_ns
    filled.publish(manifest_of(created_at="2027-01-01T00:00:00Z"), {"model.joblib": CONTENT})
    assert (filled.root / "iris" / "v1").stat().st_mtime_ns == before
    assert filled.manifest(IRIS_V1).created_at == "2026-01-02T03:04:05Z"


def test_a_version_never_changes(filled):
    with pytest.raises(VersionExists, match=r"iris@v1 .* take a new name"):
        filled.publish(manifest_of(b"others"), {"model.joblib": b"others"})
    assert filled.read(IRIS_V1) == CONTENT
    assert left_over(filled) == []


def test_a_broken_version_is_not_written_over(filled):
    (filled.root / "iris" / "v1" / "manifest.json").write_bytes(b"{")
    with pytest.raises(VersionExists, match="broken"):
        filled.publish(manifest_of(), {"model.joblib": CONTENT})


@pytest.mark.parametrize("content", [b"the weight", b"the weights!", b"THE WEIGHTS", b""])
def test_bytes_that_are_not_the_manifests_are_not_published(store, content):
    with pytest.raises(InvalidManifest, match=r"files\[0\]: model.joblib has"):
        store.publish(manifest_of(), {"model.joblib": content})
    assert store.models() == []
    assert left_over(store) == []


@pytest.mark.parametrize("sources", [{}, {"other": b""}, {"model.joblib": CONTENT, "other": b""}])
def test_every_file_of_the_manifest_is_given_and_no_other(store, sources):
    with pytest.raises(InvalidManifest, match=r"files: names model\.joblib"):
        store.publish(manifest_of(), sources)


def test_a_publisher_that_fails_halfway_leaves_nothing(store):
    with pytest.raises(FileNotFoundError):
        store.publish(manifest_of(), {"model.joblib": store.root / "gone"})
    assert store.models() == []
    assert left_over(store) == []


def test_a_version_is_not_seen_before_it_is_whole(store, monkeypatch):
    seen = []

    def look(descriptor: int) -> None:
        seen.append(store.models())
        flush(descriptor)

    flush = os.fsync
    monkeypatch.setattr(os, "fsync", look)
    store.publish(manifest_of(), {"model.joblib": CONTENT})
    # Artefact, manifest, staging folder; then renamed: the model's folder, the root.
    assert seen == [[], [], [], ["iris"], ["iris"]]


def test_of_many_publishers_at_once_one_wins(store):
    count = 8
    barrier = threading.Barrier(count)

    def race(place: int) -> bytes | None:
        content = f"weights {place}".encode()
        manifest = manifest_of(content)
        barrier.wait()
        try:
            store.publish(manifest, {"model.joblib": content})
        except VersionExists:
            return None
        return content

    with ThreadPoolExecutor(count) as threads:
        winners = [content for content in threads.map(race, range(count)) if content]
    assert len(winners) == 1
    assert store.read(IRIS_V1) == winners[0]
    assert left_over(store) == []


def test_publishers_of_the_same_bytes_at_once_are_all_content(store, monkeypatch):
    looked = threading.Barrier(4)
    look = Repository._is_published
    first = threading.local()

    def look_together(self: Repository, manifest: Manifest) -> bool:
        found = look(self, manifest)
        if not getattr(first, "done", False):  # all look before any writes
            first.done = True
            looked.wait()
        return found

    monkeypatch.setattr(Repository, "_is_published", look_together)
    with ThreadPoolExecutor(4) as threads:
        done = [
            threads.submit(store.publish, manifest_of(), {"model.joblib": CONTENT})
            for _ in range(4)
        ]
    assert [future.exception() for future in done] == [None] * 4
    assert store.read(IRIS_V1) == CONTENT
    assert left_over(store) == []


def test_what_a_dead_publisher_left_is_removed_after_a_day(tmp_path):
    now = 2_000_000_000.0
    store = Repository(tmp_path, now=lambda: now)
    for name, age_s in (("old", STAGING_TTL_S + 60), ("young", 60)):
        folder = tmp_path / STAGING / name
        folder.mkdir(parents=True)
        (folder / "model.joblib").write_bytes(b"half")
        os.utime(folder, (now - age_s, now - age_s))
    assert store.models() == []
    store.publish(manifest_of(), {"model.joblib": CONTENT})
    assert left_over(store) == ["young"]


@pytest.mark.parametrize("content", [b"the weight", b"THE WEIGHTS", b"the weights and more", b""])
def test_changed_bytes_are_refused_with_both_digests(filled, content):
    artefact(filled).write_bytes(content)
    with pytest.raises(ModelUnavailable) as caught:
        filled.read(IRIS_V1)
    message = caught.value.message
    assert "model.joblib" in message
    assert hashlib.sha256(content[: len(CONTENT) + 1]).hexdigest()[:12] in message
    assert hashlib.sha256(CONTENT).hexdigest()[:12] in message


def test_no_more_is_read_than_was_published(filled, monkeypatch):
    with open(artefact(filled), "wb") as stream:
        stream.truncate(2**40)  # a file of a terabyte that takes no room
    with pytest.raises(ModelUnavailable, match="more than the 11 bytes"):
        filled.read(IRIS_V1)


def test_a_file_that_is_swapped_after_it_was_opened_does_not_matter(filled, monkeypatch):
    """Checked and returned are the same bytes, from one descriptor."""
    opened = os.open

    def swap(path: Any, flags: int, *args: Any, **keywords: Any) -> int:
        descriptor = opened(path, flags, *args, **keywords)
        if path == "model.joblib":
            artefact(filled).rename(artefact(filled).with_suffix(".moved"))
            artefact(filled).write_bytes(b"evil bytes!")
        return descriptor

    monkeypatch.setattr(os, "open", swap)
    assert filled.read(IRIS_V1) == CONTENT


def test_a_link_in_the_artefacts_place_is_not_followed(filled):
    elsewhere = filled.root / "elsewhere"
    elsewhere.write_bytes(CONTENT)
    artefact(filled).unlink()
    artefact(filled).symlink_to(elsewhere)
    with pytest.raises(ModelUnavailable, match="symbolic link"):
        filled.read(IRIS_V1)


@pytest.mark.parametrize("place", ["iris", "iris/v1", "iris/v1/manifest.json"])
def test_no_link_below_the_root_is_followed(filled, place):
    path = filled.root / place
    moved = filled.root.parent / "moved"
    path.rename(moved)
    path.symlink_to(moved)
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        filled.manifest(IRIS_V1)


def test_the_root_itself_may_be_a_link(filled):
    link = filled.root.parent / "link"
    link.symlink_to(filled.root)
    assert Repository(link).read(IRIS_V1) == CONTENT


def test_a_pipe_in_the_artefacts_place_does_not_hang_the_reader(filled):
    artefact(filled).unlink()
    os.mkfifo(artefact(filled))
    with pytest.raises(ModelUnavailable, match="no regular file"):
        filled.read(IRIS_V1)


def test_a_missing_artefact_is_unavailable_and_not_unknown(filled):
    artefact(filled).unlink()
    with pytest.raises(ModelUnavailable, match=r"model\.joblib cannot be read: No such file"):
        filled.read(IRIS_V1)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"x" * (2**20 + 9)])
def test_a_broken_manifest_makes_its_version_unavailable(filled, raw):
    (filled.root / "iris" / "v1" / "manifest.json").write_bytes(raw)
    with pytest.raises(ModelUnavailable, match=r"^iris@v1: manifest"):
        filled.manifest(IRIS_V1)


def test_a_copied_folder_is_not_taken_for_another_version(filled):
    (filled.root / "iris" / "v2").mkdir()
    manifest = (filled.root / "iris" / "v1" / "manifest.json").read_bytes()
    (filled.root / "iris" / "v2" / "manifest.json").write_bytes(manifest)
    with pytest.raises(ModelUnavailable, match="is that of iris@v1"):
        filled.manifest(ModelRef("iris", "v2"))


def test_bytes_are_pinned_by_the_manifest_that_the_caller_holds(filled):
    """A writer of the store can change the manifest there, but not the caller's copy."""
    folder = filled.root / "iris" / "v1"
    (folder / "model.joblib").write_bytes(b"evil bytes!")
    (folder / "manifest.json").write_bytes(manifest_of(b"evil bytes!").to_json())
    assert filled.read(IRIS_V1) == b"evil bytes!"
    with pytest.raises(ModelUnavailable, match="not the published one"):
        filled.read(IRIS_V1, expected=manifest_of())


def test_a_file_that_the_manifest_does_not_name_is_not_read(filled):
    (filled.root / "iris" / "v1" / "secret").write_bytes(b"x")
    with pytest.raises(ModelUnavailable, match="none is named 'secret'"):
        filled.read(IRIS_V1, "secret")


# Deleting, and what is left over


def test_a_deleted_version_is_gone(filled):
    filled.publish(manifest_of(ref=ModelRef("iris", "v2")), {"model.joblib": CONTENT})
    assert filled.delete(IRIS_V1) > len(CONTENT)
    assert filled.versions("iris") == ["v2"]
    assert left_over(filled) == []
    with pytest.raises(UnknownVersion):
        filled.delete(IRIS_V1)


def test_the_last_version_takes_its_model_along(filled):
    filled.delete(IRIS_V1)
    assert filled.models() == []
    assert not (filled.root / "iris").exists()
    with pytest.raises(UnknownModel):
        filled.delete(IRIS_V1)
    filled.publish(manifest_of(), {"model.joblib": CONTENT})
    assert filled.read(IRIS_V1) == CONTENT


def test_deleting_follows_no_link(filled, tmp_path):
    outside = tmp_path / "outside"
    (filled.root / "iris").rename(outside)
    (filled.root / "iris").symlink_to(outside)
    with pytest.raises(OSError, match=r"[Nn]ot a directory|symbolic links"):
        filled.delete(IRIS_V1)
    assert (outside / "v1" / "model.joblib").read_bytes() == CONTENT


def test_deleting_a_version_that_is_a_link_leaves_its_target(filled, tmp_path):
    outside = tmp_path / "outside"
    (filled.root / "iris" / "v1").rename(outside)
    (filled.root / "iris" / "v1").symlink_to(outside)
    filled.delete(IRIS_V1)
    assert filled.models() == []
    assert (outside / "model.joblib").read_bytes() == CONTENT


@pytest.mark.parametrize("call", ["publish", "delete"])
def test_a_staging_folder_that_leads_elsewhere_is_not_used(filled, tmp_path, call):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "old").mkdir()
    os.utime(outside / "old", (0, 0))
    (filled.root / STAGING).rmdir()
    (filled.root / STAGING).symlink_to(outside)
    manifest = manifest_of(ref=ModelRef("iris", "v2"))
    calls = {
        "publish": lambda: filled.publish(manifest, {"model.joblib": CONTENT}),
        "delete": lambda: filled.delete(IRIS_V1),
    }
    with pytest.raises(OSError, match="symbolic links"):
        calls[call]()
    assert filled.leftovers(-60) == []
    assert os.listdir(outside) == ["old"]


def test_only_what_is_ours_is_left_over(filled):
    (filled.root / STAGING / "dead").mkdir()
    (filled.root / STAGING / "dead" / "model.joblib").write_bytes(b"half")
    (filled.root / "iris" / "v1" / "extra").write_bytes(b"extra")
    (filled.root / "own" / "things").mkdir(parents=True)
    (filled.root / "own" / "things" / "photo").write_bytes(b"photo")
    assert filled.leftovers(3600) == []
    found = filled.leftovers(-60)
    assert {(leftover.place, leftover.size_bytes) for leftover in found} == {
        (f"{STAGING}/dead", 4),
        ("iris/v1/extra", 5),
    }
    for leftover in found:
        filled.remove(leftover)
        filled.remove(leftover)
    assert filled.leftovers(-60) == []
    assert filled.read(IRIS_V1) == CONTENT
    assert (filled.root / "own" / "things" / "photo").exists()


def modes(root: Path) -> set[tuple[bool, int]]:
    found = (path.stat() for path in (root, *root.rglob("*")))
    return {(stat.S_ISDIR(one.st_mode), stat.S_IMODE(one.st_mode)) for one in found}


def test_a_new_store_is_the_users_alone(tmp_path):
    store = Repository(tmp_path / "new" / "store")
    store.publish(manifest_of(), {"model.joblib": CONTENT})
    assert modes(store.root) == {(True, 0o700), (False, 0o600)}


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o700])
def test_a_version_gets_the_permissions_of_the_store_that_it_is_put_into(tmp_path, mode):
    root = tmp_path / "store"
    root.mkdir(mode=mode)
    Repository(root).publish(manifest_of(), {"model.joblib": CONTENT})
    assert modes(root) == {(True, mode), (False, mode & 0o666)}
