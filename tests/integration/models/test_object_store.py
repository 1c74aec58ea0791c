"""Versions in a real S3 server: whole or not at all, read through a folder of this machine."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest

from models.manifest import File
from models.store.location import open_store
from models.store.repository import Repository, open_repository
from tests.helpers.object_store import (
    SECRET,
    S3Server,
    client,
    objects,
    put_objects,
    repository,
    running_s3,
)
from tests.helpers.waiting import ends_soon
from tests.unit.models.test_repository import CONTENT, IRIS_V1, manifest_of
from yard.contract.values import ModelRef
from yard.errors import (
    ConfigurationError,
    InvalidManifest,
    ModelUnavailable,
    ModelyardError,
    Unavailable,
    UnknownModel,
    UnknownVersion,
    VersionExists,
)
from yard.settings import Settings

FILE = f"iris/v1/{File.of('model.joblib', CONTENT).sha256}/model.joblib"
MANIFEST = "iris/v1/manifest.json"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def url(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket."""
    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)
    s3.start()
    yield s3.make_bucket()
    s3.start()


@pytest.fixture
def store(url: str, tmp_path: Path) -> Repository:
    return repository(url, tmp_path)


@pytest.fixture
def filled(store: Repository) -> Repository:
    """A store with iris@v1."""
    store.publish(manifest_of(), {"model.joblib": CONTENT})
    return store


def cached(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_published_version_is_listed_and_read_back(store, url, tmp_path):
    source = tmp_path / "fitted.joblib"
    source.write_bytes(CONTENT)
    store.publish(manifest_of(), {"model.joblib": source})
    assert sorted(objects(url)) == sorted([FILE, MANIFEST])
    assert store.models() == ["iris"]
    assert store.versions("iris") == ["v1"]
    assert store.manifest(IRIS_V1) == manifest_of()
    assert store.read(IRIS_V1) == CONTENT


def test_a_store_without_versions_has_no_models(store):
    assert store.models() == []
    with pytest.raises(UnknownModel):
        store.versions("iris")
    with pytest.raises(UnknownModel):
        store.manifest(IRIS_V1)


def test_what_is_not_published_is_unknown(filled):
    with pytest.raises(UnknownVersion, match="'v9'"):
        filled.manifest(ModelRef("iris", "v9"))
    with pytest.raises(UnknownModel, match="'ir'"):  # the beginning of a name is none
        filled.manifest(ModelRef("ir", "v1"))


def test_publishing_the_same_again_changes_nothing(filled, url):
    before = objects(url)
    filled.publish(manifest_of(created_at="2027-01-01T00:00:00Z"), {"model.joblib": CONTENT})
    assert objects(url) == before


def test_a_version_never_changes(filled, url):
    before = objects(url)
    with pytest.raises(VersionExists, match=r"iris@v1 .* take a new name"):
        filled.publish(manifest_of(b"others"), {"model.joblib": b"others"})
    assert objects(url) == before


def test_of_publishers_at_once_one_wins_and_the_others_leave_nothing(url, tmp_path):
    count = 6
    barrier = threading.Barrier(count)

    def race(place: int) -> bytes | None:
        content = f"weights {place}".encode()
        store, manifest = repository(url, tmp_path), manifest_of(content)
        held = store._store.holds

        def look(ref: ModelRef) -> bool:
            found = held(ref)
            if not getattr(held, "done", False) and not barrier.broken:
                store._store.holds = held  # type: ignore[method-assign]  # all look before any writes
                barrier.wait(30)
            return found

        store._store.holds = look  # type: ignore[method-assign]
        try:
            store.publish(manifest, {"model.joblib": content})
        except VersionExists:
            return None
        return content

    with ThreadPoolExecutor(count) as threads:
        winners = [content for content in threads.map(race, range(count)) if content]
    assert len(winners) == 1
    assert repository(url, tmp_path).read(IRIS_V1) == winners[0]
    assert len(objects(url)) == 2


def test_a_repeated_write_of_the_manifest_is_no_defeat(filled):
    """The answer to the first may have been lost, and the client has sent it again."""
    assert filled._store.put(manifest_of(), {"model.joblib": CONTENT})


def test_bytes_that_are_not_the_manifests_are_not_published(store, url):
    with pytest.raises(InvalidManifest, match=r"files\[0\]: model.joblib has"):
        store.publish(manifest_of(), {"model.joblib": b"THE WEIGHTS"})
    assert objects(url) == {}


def test_a_version_without_its_manifest_is_not_there(filled, url):
    obstore.delete(client(url), MANIFEST)
    assert filled.models() == []
    filled.publish(manifest_of(b"others"), {"model.joblib": b"others"})
    assert filled.read(IRIS_V1) == b"others"


def test_a_folders_copy_in_a_bucket_is_a_store(store, url):
    put_objects(url, {MANIFEST: manifest_of().to_json(), "iris/v1/model.joblib": CONTENT})
    assert store.versions("iris") == ["v1"]
    assert store.read(IRIS_V1) == CONTENT


def test_objects_that_are_no_versions_are_not_listed(filled, url):
    for key in ("UPPER/v1", "iris/no name", ".hidden/v1", "a/b/c", "iris"):
        put_objects(url, {f"{key}/manifest.json": b"{}"})
    assert filled.models() == ["iris"]
    assert filled.versions("iris") == ["v1"]


@pytest.mark.parametrize("content", [b"the weight", b"THE WEIGHTS", b"the weights and more", b""])
def test_changed_bytes_are_refused_and_not_kept(filled, url, tmp_path, content):
    put_objects(url, {FILE: content})
    with pytest.raises(ModelUnavailable, match=r"model\.joblib is not the published one"):
        filled.read(IRIS_V1)
    assert not [path for path in cached(tmp_path) if path.name in FILE]


def test_a_missing_artefact_is_unavailable_and_not_unknown(filled, url):
    obstore.delete(client(url), FILE)
    with pytest.raises(ModelUnavailable, match=r"model\.joblib cannot be read: .* no such object"):
        filled.read(IRIS_V1)


@pytest.mark.parametrize("raw", [b"", b"{", b"x" * (2**20 + 9)])
def test_a_broken_manifest_makes_its_version_unavailable(filled, url, raw):
    put_objects(url, {MANIFEST: raw})
    with pytest.raises(ModelUnavailable, match=r"^iris@v1: manifest"):
        filled.manifest(IRIS_V1)


def test_large_files_come_whole(store):
    content = os.urandom(21 * 2**20)
    store.publish(manifest_of(content), {"model.joblib": content})
    assert store.read_from_store(IRIS_V1, manifest_of(content).file()) == content


# The folder that it is read through


def test_what_was_read_once_comes_from_the_folder(filled, url, tmp_path):
    filled.read(IRIS_V1)
    obstore.delete(client(url), FILE)
    assert filled.read(IRIS_V1) == CONTENT
    assert repository(url, tmp_path).read(IRIS_V1) == CONTENT  # another process, the same folder


def test_a_version_that_was_read_loads_while_the_store_is_away(filled, s3, url, tmp_path):
    manifest, contents = filled.manifest(IRIS_V1), objects(url)
    filled.read(IRIS_V1)
    s3.kill()
    assert filled.manifest(IRIS_V1, manifest.digest) == manifest
    assert filled.read(IRIS_V1, expected=manifest) == CONTENT
    with pytest.raises(ModelUnavailable, match="does not answer"):
        filled.manifest(IRIS_V1, "0" * 64)  # the catalogue names other bytes
    with pytest.raises(ModelUnavailable, match="does not answer"):
        filled.manifest(IRIS_V1)
    s3.start()
    s3.make_bucket(url.split("/")[2])
    put_objects(url, contents)
    assert filled.manifest(IRIS_V1) == manifest


# A store that does not answer


def test_a_store_that_is_gone_is_told_within_two_seconds(filled, s3):
    s3.kill()
    for call in (
        filled.models,
        lambda: filled.publish(manifest_of(), {"model.joblib": CONTENT}),
        lambda: filled.delete(IRIS_V1),
        filled.leftovers,
    ):
        told = r"the store s3://.*: it does not answer: no conn"
        with ends_soon(15), pytest.raises(Unavailable, match=told):
            call()
    with pytest.raises(ModelUnavailable, match="does not answer") as caught:
        filled.read(IRIS_V1)
    assert caught.value.retryable


def test_a_store_that_says_nothing_is_given_up(filled, s3, url, tmp_path, monkeypatch):
    monkeypatch.setattr("models.store.object_store._READ_S", 0.5)
    silent = repository(url, tmp_path)
    s3.freeze()
    with pytest.raises(ModelUnavailable, match="does not answer"):
        silent.read(IRIS_V1)
    s3.start()
    assert silent.read(IRIS_V1) == CONTENT


def test_a_bucket_that_is_not_there_is_named(url, tmp_path, monkeypatch):
    lost = repository("s3://no-such-bucket/x", tmp_path)
    for call in (lost.models, lambda: lost.publish(manifest_of(), {"model.joblib": CONTENT})):
        with pytest.raises(Unavailable, match="s3://no-such-bucket/x: there is no such bucket"):
            call()
    with pytest.raises(ModelUnavailable, match="no such bucket"):
        lost.manifest(IRIS_V1)


def test_an_endpoint_without_tls_must_be_allowed(url, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(Unavailable, match="AWS_ALLOW_HTTP"):
        repository(url, tmp_path).models()


@pytest.mark.parametrize(
    "location",
    [
        f"s3://AKIA:{SECRET}@bucket/prefix",
        f"s3://bucket/prefix?secret={SECRET}",
        f"s3://bucket/prefix#{SECRET}",
        f"https://{SECRET}.example/bucket",
        "s3:///prefix",
        "s3://bucket/../other",
        "file:///srv/store",
        "ftp://bucket/prefix",
    ],
)
def test_other_urls_are_refused(location):
    with pytest.raises(ConfigurationError, match="MODELYARD_STORE") as caught:
        open_store(location)
    assert not re.search(rf"@|\?|#|:{SECRET}", caught.value.message)


def test_no_error_and_no_log_has_a_secret(filled, s3, url, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    said = []
    lost = repository("s3://no-such-bucket/x", tmp_path)
    s3.kill()
    for call in (filled.models, lambda: filled.read(IRIS_V1), lost.models):
        with pytest.raises(ModelyardError) as caught:
            call()
        said.append(caught.value.message)
        assert caught.value.__suppress_context__
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:9")
    for call in (lambda: repository(url, tmp_path).models(), lambda: open_store(url).refs()):
        with pytest.raises(ModelyardError) as caught:
            call()
        said.append(caught.value.message)
    assert SECRET not in "\n".join([*said, caplog.text])


def test_settings_name_the_store_and_its_folder(filled, url, tmp_path):
    settings = Settings.load({}, store=url, store_cache=str(tmp_path / "mine"))
    opened = open_repository(settings)
    assert opened.location == url
    assert opened.read(IRIS_V1) == CONTENT
    assert [path.name for path in (tmp_path / "mine").rglob("*") if path.name in FILE]


# Deleting, and what is left over


def test_a_deleted_version_is_gone_with_all_its_objects(filled, url):
    other = ModelRef("iris", "v2")
    filled.publish(manifest_of(ref=other), {"model.joblib": CONTENT})
    assert filled.delete(IRIS_V1) == len(CONTENT)
    assert filled.versions("iris") == ["v2"]
    assert all(key.startswith("iris/v2/") for key in objects(url))
    with pytest.raises(UnknownVersion):
        filled.delete(IRIS_V1)


def test_only_what_no_manifest_names_is_left_over(filled, url):
    lost = f"iris/v2/{'0' * 64}/model.joblib"
    unnamed = f"iris/v1/{'1' * 64}/model.joblib"
    others = {"notes.txt": b"x", "iris/v1/readme": b"x", "data/2026/a/b.csv": b"x"}
    broken = {"wine/v1/manifest.json": b"{", f"wine/v1/{'2' * 64}/model.joblib": b"x"}
    put_objects(url, {lost: b"lost", unnamed: b"none"} | others | broken)
    assert filled.leftovers(age_s=3600) == []  # a publish may be in progress
    found = filled.leftovers(age_s=-60)
    assert sorted(leftover.place for leftover in found) == sorted([lost, unnamed])
    assert {leftover.size_bytes for leftover in found} == {4}
    for leftover in found:
        filled.remove(leftover)
    assert filled.leftovers(age_s=-60) == []
    assert filled.read(IRIS_V1) == CONTENT
    assert objects(url).keys() >= others.keys() | broken.keys()
