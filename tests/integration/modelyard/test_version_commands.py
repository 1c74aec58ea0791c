"""The commands on published versions: `inspect`, `verify`, `export`, `retire`, `gc` and others."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from models.manifest import File, Golden, Manifest, digest_of
from models.publish.publisher import publish, register_store
from models.store.folder import STAGING
from models.store.repository import Repository
from modelyard.cli import main
from tests.helpers import estimators
from tests.helpers.gateways import announce
from yard.contract import keys
from yard.contract.values import ModelRef
from yard.registry import catalog, lifecycle
from yard.routing import routes

V1, V2 = ModelRef("echo", "v1"), ModelRef("echo", "v2")

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with echo@v1 and v2; publishing opens what it is given in a child, so it is slow."""
    folder = tmp_path_factory.mktemp("published")
    for version in ("v1", "v2"):
        echo = estimators.Echo().fit([[1.0]])
        publish(Repository(folder), None, echo, "echo", version, [[1.0], [2.0]], note=version)
    return folder


@pytest.fixture
def store(published: Path, tmp_path: Path, redis: Redis) -> Repository:
    """A store with echo@v1, which is active, and echo@v2."""
    shutil.copytree(published, tmp_path / "store")
    store = Repository(tmp_path / "store")
    register_store(store, redis)
    routes.set_route(redis, "echo", active="v1")
    return store


@pytest.fixture
def run(store: Repository, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command on the store; the exit status must be the one that is said."""
    monkeypatch.setenv("MODELYARD_STORE_CACHE", str(tmp_path / "cache"))

    def run(*arguments: str, status: int = 0, **options: Any) -> Result:
        words = [arguments[0], "--store", str(store.root), "--redis-url", redis_url, *arguments[1:]]
        result = CliRunner().invoke(main, words, prog_name="modelyard", **options)
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output
        return result

    return run


def document(result: Result) -> Any:
    return json.loads(result.stdout)


def artefact(store: Repository, version: str = "v2") -> Path:
    return store.root / "echo" / version / "model.joblib"


# inspect


def test_inspect_tells_what_a_version_is_and_how_it_stands(run, store, redis):
    routes.set_alias(redis, "echo", "champion", "v1")
    redis.rpush(keys.key("queue", "echo@v1"), "a-job")
    found = document(run("inspect", "echo", "v1", "--json"))
    assert found["manifest"] == json.loads(store.manifest(V1).to_json())
    assert (found["registered"], found["state"]) == (True, "published")
    assert (found["active"], found["share"], found["weight"]) == (True, 1.0, 1.0)
    assert (found["aliases"], found["queue_depth"], found["loaded"]) == (["champion"], 1, [])
    text = run("inspect", "echo", "v1").output
    for part in ("echo@v1", store.manifest(V1).digest, "champion", "1 jobs wait", "no worker"):
        assert part in text
    lifecycle.retire(redis, V2)
    assert "retired" in run("inspect", "echo", "v2").output


def test_inspect_does_without_redis(run, store):
    words = ["inspect", "echo", "v1", "--store", str(store.root), "--json"]
    result = CliRunner().invoke(main, [*words, "--redis-url", "redis://127.0.0.1:1"])
    assert result.exit_code == 0, result.output
    assert document(result)["registered"] is None
    assert "does not answer" in document(result)["problems"][0]


def test_inspect_shows_a_version_that_is_only_in_redis(run, store):
    store.delete(V2)
    found = document(run("inspect", "echo", "v2", "--json", status=1))
    assert found["manifest"] is None
    assert found["registered"] is True
    assert "the store has no version 'v2'" in found["problems"][0]


@pytest.mark.parametrize("command", ["inspect", "retire", "delete", "export", "verify"])
def test_a_version_that_is_nowhere_is_one_line_and_status_1(run, command, tmp_path):
    words = {"delete": ["--yes"], "export": [str(tmp_path / "x.tar")]}.get(command, [])
    result = run(command, "echo", "v9", *words, status=1)
    assert result.stderr.count("\n") == 1
    assert "v9" in result.stderr


@pytest.mark.parametrize("command", ["inspect", "verify", "retire", "delete"])
def test_names_outside_the_alphabet_are_a_usage_error(run, command):
    assert "'../v1'" in run(command, "echo", "../v1", status=2).output


# verify


def test_verify_is_content_with_what_was_published(run):
    found = document(run("verify", "--json"))
    assert found["ok"]
    assert [version["checked"] for version in found["versions"]] == [
        ["manifest", "digests", "answers"]
    ] * 2
    assert "ok" in run("verify", "echo", "v1").output


def test_verify_names_what_was_changed_and_does_not_open_it(run, store):
    content = artefact(store).read_bytes()
    artefact(store).write_bytes(content[:-1] + b"X")
    found = document(run("verify", "--json", status=1))
    assert [version["ok"] for version in found["versions"]] == [True, False]
    assert found["versions"][1]["checked"] == ["manifest", "digests"]
    assert "echo@v2: model.joblib is not the published one" in found["versions"][1]["problems"][0]
    assert "WRONG" in run("verify", "echo", "v2", status=1).output
    run("verify", "echo", "v1")


def test_verify_finds_a_file_that_is_not_there(run, store):
    artefact(store).unlink()
    assert "No such file" in run("verify", "echo", "v2", "--no-open", status=1).output
    run("verify", "echo", "v2", "--quick")


def test_verify_finds_a_broken_manifest(run, store):
    (store.root / "echo" / "v2" / "manifest.json").write_bytes(b"{")
    assert "echo@v2: manifest" in run("verify", status=1).output


def test_verify_opens_nothing_when_told_so(run, monkeypatch):
    monkeypatch.setattr("models.runtimes.load", lambda *_: pytest.fail("opened"))
    run("verify", "--no-open")


def test_verify_asks_for_the_published_answers(run, store):
    for answers, status in (([1.0, 2.0], 0), ([1.0, 2.5], 1)):
        golden = Golden(outputs={"predictions": answers})
        manifest = store.manifest(V1).model_copy(update={"golden": golden})
        (store.root / "echo" / "v1" / "manifest.json").write_bytes(manifest.to_json())
        text = run("verify", "echo", "v1", status=status).output
    assert "output 'predictions', row 1: expected 2.5, got 2.0" in text


def test_verify_compares_with_the_catalogue(run, redis):
    raw = json.loads(redis.hget(keys.key("versions", "echo"), "v2"))
    redis.hset(keys.key("versions", "echo"), "v2", json.dumps(raw | {"digest": "0" * 64}))
    assert "published was 000000000000" in run("verify", "--quick", status=1).output


# export and import


@pytest.mark.parametrize("target", ["out.tar", "out"])
def test_an_exported_version_is_published_elsewhere_with_the_same_bytes(
    run, store, redis, tmp_path, target
):
    exported, manifest = tmp_path / target, store.manifest(V2)
    run("export", "echo", "v2", str(exported))
    run("delete", "echo", "v2", "--yes")
    found = document(run("import", str(exported), "--activate", "--json"))
    assert found["version"] == "v2"
    assert store.manifest(V2) == manifest
    assert catalog.read_versions(redis, "echo")["v2"].state == "published"
    assert routes.read_route(redis, "echo").active == "v2"
    run("verify", "echo", "v2")
    run("import", str(exported))  # again: the same bytes, nothing changes


def test_export_names_the_folder_that_is_not_there(run, tmp_path):
    said = run("export", "echo", "v2", str(tmp_path / "no" / "out.tar"), status=1).output
    assert f"make {tmp_path / 'no'} first" in said


def test_what_is_imported_gets_traffic_only_where_the_pools_have_loaded_it(
    run, redis, tmp_path, monkeypatch
):
    run("export", "echo", "v2", str(tmp_path / "out"))
    announce(redis, "pool", "here", {"workers": {"idle": 1}, "warms": True, "pattern": "*"})
    monkeypatch.setenv("MODELYARD_WARM_S", "0.2")
    said = run("import", str(tmp_path / "out"), "--activate", status=1).output
    assert "echo@v2 is published, but gets no traffic" in said
    assert routes.read_route(redis, "echo").active == "v1"
    run("import", str(tmp_path / "out"), "--activate", "--no-wait")
    assert routes.read_route(redis, "echo").active == "v2"


def test_another_yards_bytes_are_not_imported_over_a_version(run, store, redis, tmp_path):
    run("export", "echo", "v2", str(tmp_path / "out"))
    run("delete", "echo", "v2", "--yes")
    theirs = store.manifest(V1).model_dump(mode="json") | {"files": [{"name": "other"}]}
    catalog.register(redis, V2, json.dumps(theirs).encode(), store.manifest(V1).signature)
    said = run("import", str(tmp_path / "out"), status=1).output
    assert "published with other bytes" in said
    assert store.versions("echo") == ["v1"]


def test_export_replaces_nothing_and_leaves_nothing(run, store, tmp_path):
    (tmp_path / "there.tar").write_bytes(b"mine")
    assert (
        "there already" in run("export", "echo", "v2", str(tmp_path / "there.tar"), status=1).output
    )
    assert (tmp_path / "there.tar").read_bytes() == b"mine"
    artefact(store).write_bytes(b"changed")
    before = sorted(os.listdir(tmp_path))
    for target in ("out.tar", "out"):
        run("export", "echo", "v2", str(tmp_path / target), status=1)
    assert sorted(os.listdir(tmp_path)) == before


def entry(name: str, content: bytes = b"x", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


@pytest.mark.parametrize(
    "extra",
    [
        entry("../evil"),
        entry("/etc/evil"),
        entry("C:\\evil"),
        entry("..\\evil"),
        entry("sub/model.joblib"),
        entry("model.joblib"),
        entry("manifest.json"),
        entry("notes.txt"),
        entry("link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry("hard", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        entry("device", b"", type=tarfile.CHRTYPE),
        entry("pipe", b"", type=tarfile.FIFOTYPE),
        entry("folder", b"", type=tarfile.DIRTYPE),
    ],
    ids=lambda extra: f"{extra[0].name} {extra[0].type!r}",
)
def test_a_tar_file_with_anything_else_in_it_is_refused_whole(run, store, tmp_path, extra):
    source = tmp_path / "evil.tar"
    run("export", "echo", "v2", str(source))
    with tarfile.open(source, "a:") as archive:
        archive.addfile(extra[0], io.BytesIO(extra[1]))
    run("delete", "echo", "v2", "--yes")
    assert "evil.tar" in run("import", str(source), status=1).output
    assert store.versions("echo") == ["v1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tar", "store"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.GNUTYPE_SPARSE])
def test_a_file_of_a_version_that_is_a_link_is_refused(run, store, tmp_path, kind):
    source = tmp_path / "evil.tar"
    manifest = store.manifest(V2).to_json()
    with tarfile.open(source, "w:") as archive:
        archive.addfile(entry("manifest.json", manifest)[0], io.BytesIO(manifest))
        archive.addfile(entry("model.joblib", b"", type=kind, linkname="manifest.json")[0])
    assert "is no plain file" in run("import", str(source), status=1).output


def test_a_tar_file_with_many_entries_is_refused_early(run, tmp_path):
    source = tmp_path / "many.tar"
    with tarfile.open(source, "w:") as archive:
        for number in range(10_000):
            archive.addfile(entry(f"f{number}", b"")[0], io.BytesIO())
    assert "more than 65 entries" in run("import", str(source), status=1).output


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_file_is_not_opened(run, tmp_path, mode):
    """A few kilobytes of it may stand for terabytes."""
    source = tmp_path / "bomb.tar"
    with tarfile.open(source, mode) as archive:
        archive.addfile(entry("manifest.json")[0], io.BytesIO(b"x"))
    assert "no plain tar file" in run("import", str(source), status=1).output


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"{}", os.urandom(2000)])
def test_what_is_no_export_is_told_so(run, tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    assert "x.tar" in run("import", str(tmp_path / "x.tar"), status=1).output
    (tmp_path / "folder").mkdir()
    assert "no exported version" in run("import", str(tmp_path / "folder"), status=1).output


def test_changed_bytes_are_not_imported(run, tmp_path):
    run("export", "echo", "v2", str(tmp_path / "out"))
    (tmp_path / "out" / "model.joblib").write_bytes(b"evil")
    assert "not what the manifest says" in run("import", str(tmp_path / "out"), status=1).output
    (tmp_path / "out" / "model.joblib").unlink()
    assert "lacks model.joblib" in run("import", str(tmp_path / "out"), status=1).output
    (tmp_path / "out" / "model.joblib").symlink_to("/etc/passwd")
    assert "symbolic link" in run("import", str(tmp_path / "out"), status=1).output


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return exec, (self.code,)


def forged(store: Repository, folder: Path, content: bytes, **changes: Any) -> str:
    """An export of echo@v3 whose manifest names these bytes, as somebody else may write one."""
    name = changes.pop("name", "model.joblib")
    known = {name: getattr(store.manifest(V2), name) for name in Manifest.model_fields}
    files = (File.of(name, content),)
    changes = {"version": "v3", "files": files, "digest": digest_of(files)} | changes
    folder.mkdir()
    (folder / name).write_bytes(content)
    (folder / "manifest.json").write_bytes(Manifest(**known | changes).to_json())
    return str(folder)


def test_what_is_imported_is_opened_in_a_process_with_limits_first(run, store, tmp_path):
    trap = tmp_path / "trap"
    code = f"import os\nopen({str(trap)!r}, 'w')\nos.kill({os.getpid()}, 9)"
    source = forged(store, tmp_path / "bomb", pickle.dumps(Bomb(code)))
    result = run("import", source, status=1)
    assert "does not open" in result.output
    assert store.versions("echo") == ["v1", "v2"]
    if "writing nowhere else" in result.stderr:
        assert not trap.exists()


def test_what_is_imported_and_never_ends_is_ended(run, store, tmp_path):
    source = forged(store, tmp_path / "bomb", pickle.dumps(Bomb("while True: pass")))
    said = run("import", source, "--timeout-s", "1", status=1).output
    assert "does not load: it takes more than 1 s" in said
    assert store.versions("echo") == ["v1", "v2"]


def test_what_is_imported_and_answers_otherwise_is_refused(run, store, tmp_path):
    golden = Golden(outputs={"predictions": [1.0, 2.5]})
    source = forged(store, tmp_path / "other", artefact(store).read_bytes(), golden=golden)
    said = run("import", source, status=1).output
    assert "output 'predictions', row 1: expected 2.5, got 2.0" in said
    assert store.versions("echo") == ["v1", "v2"]


@pytest.mark.parametrize(
    ("name", "runtime", "said"),
    [
        ("model.onnx", "onnx", "model.onnx is joblib or pickle"),
        ("model.skops", "skops", "model.skops is joblib or pickle"),
        ("other.bin", "sklearn", "files: none is named 'model.joblib'"),
        ("model.joblib", "unheard_of", "no runtime 'unheard_of'"),
    ],
)
def test_what_is_imported_is_what_its_manifest_calls_it(run, store, tmp_path, name, runtime, said):
    content = artefact(store).read_bytes()
    source = forged(store, tmp_path / "other", content, name=name, runtime=runtime)
    assert said in run("import", source, status=1).output
    assert store.versions("echo") == ["v1", "v2"]


# retire and delete


def test_retire_and_undo(run, redis):
    found = document(run("retire", "echo", "v2", "--json"))
    assert (found["state"], found["changed"]) == ("retired", True)
    assert catalog.read_versions(redis, "echo")["v2"].state == "retired"
    assert "was so before" in run("retire", "echo", "v2").output
    assert "in service again" in run("retire", "echo", "v2", "--undo").output
    assert catalog.read_versions(redis, "echo")["v2"].state == "published"
    assert "exclude each other" in run("retire", "echo", "v2", "--undo", "--force", status=2).output


def test_an_active_version_is_neither_retired_nor_deleted(run, store):
    for words in (["retire", "echo", "v1"], ["delete", "echo", "v1", "--yes"]):
        assert "echo@v1 is in use: it is the active version" in run(*words, status=1).output
    assert store.versions("echo") == ["v1", "v2"]
    run("retire", "echo", "v1", "--force")
    run("delete", "echo", "v1", "--yes")
    assert store.versions("echo") == ["v2"]


def test_delete_asks_and_a_program_must_say_yes(run, store):
    assert "confirm with --yes" in run("delete", "echo", "v2", status=2).output
    assert store.versions("echo") == ["v1", "v2"]
    found = document(run("delete", "echo", "v2", "--yes", "--json"))
    assert found["freed_bytes"] > 0
    assert store.versions("echo") == ["v1"]


def test_delete_goes_on_where_it_was_cut_off(run, store, redis):
    lifecycle.delete(redis, V2)  # and then the store did not answer
    run("delete", "echo", "v2", "--yes")
    assert store.versions("echo") == ["v1"]
    publish(store, redis, estimators.Echo().fit([[1.0]]), "echo", "v2", [[1.0]])
    store.delete(V2)
    run("delete", "echo", "v2", "--yes")
    assert list(catalog.read_versions(redis, "echo")) == ["v1"]


# gc


def leave_garbage(store: Repository, redis: Redis) -> None:
    (store.root / STAGING / "dead").mkdir()
    (store.root / STAGING / "dead" / "model.joblib").write_bytes(b"half")
    (store.root / "echo" / "v1" / "extra").write_bytes(b"extra")
    store.delete(V2)
    series = "model_prediction_requests_total|model={}|model_version={}|status=finished"
    redis.hset(keys.METRICS, series.format("gone", "v1"), 5)
    redis.hset(keys.METRICS, series.format("echo", "v1"), 5)
    redis.hset(keys.METRICS, "jobs_quarantined_total", 5)


def test_gc_removes_what_no_version_needs_and_nothing_else(run, store, redis):
    leave_garbage(store, redis)
    shown = document(run("gc", "--dry-run", "--older-than", "0", "--json"))
    assert {(one["kind"], one["name"]) for one in shown["removed"]} == {
        ("store", f"{STAGING}/dead"),
        ("store", "echo/v1/extra"),
        ("catalogue", "echo@v2"),
        ("metrics", "gone@v1"),
    }
    assert shown["freed_bytes"] == 9
    assert len(catalog.read_versions(redis, "echo")) == 2
    done = document(run("gc", "--older-than", "0", "--json"))
    assert (done["removed"], done["freed_bytes"]) == (shown["removed"], 9)
    assert list(catalog.read_versions(redis, "echo")) == ["v1"]
    assert redis.hlen(keys.METRICS) == 2
    run("verify")
    assert document(run("gc", "--older-than", "0", "--json"))["removed"] == []


def test_gc_holds_the_copies_that_workers_map_to_their_bound(run, tmp_path, monkeypatch):
    shelf = tmp_path / "cache" / "mapped" / "ab"
    shelf.mkdir(parents=True)
    for age_s, name in ((300, "old"), (100, "new")):
        (shelf / name).write_bytes(bytes(1000))
        os.utime(shelf / name, (time.time() - age_s,) * 2)
    run("gc")
    assert len(list(shelf.iterdir())) == 2
    monkeypatch.setenv("MODELYARD_STORE_CACHE_BYTES", "1500")
    found = document(run("gc", "--json"))
    assert [one["name"] for one in found["removed"]] == [str(shelf / "old")]
    assert [path.name for path in shelf.iterdir()] == ["new"]


def test_gc_leaves_alone_what_a_publish_may_be_writing(run, store, redis):
    leave_garbage(store, redis)
    found = document(run("gc", "--json"))
    assert {one["kind"] for one in found["removed"]} == {"catalogue", "metrics"}
    assert (store.root / STAGING / "dead").exists()


def test_gc_keeps_versions_that_are_in_use_and_says_why(run, store, redis):
    store.delete(V1)
    found = document(run("gc", "--json"))
    assert found["removed"] == []
    assert found["kept"] == [
        {"name": "echo@v1", "why": "it is not in the store, but it gets traffic"}
    ]
    assert "kept: echo@v1" in run("gc").output


def test_gc_does_not_empty_the_catalogue_for_an_empty_store(redis, redis_url, store, tmp_path):
    """The folder that is named is the wrong one."""
    words = ["gc", "--store", str(tmp_path / "other"), "--redis-url", redis_url, "--json"]
    result = CliRunner().invoke(main, words)
    assert "is it the right one" in document(result)["kept"][0]["why"]
    assert len(catalog.read_versions(redis, "echo")) == 2


def test_gc_cleans_the_store_without_redis(store, redis):
    leave_garbage(store, redis)
    words = ["gc", "--store", str(store.root), "--redis-url", "redis://127.0.0.1:1"]
    result = CliRunner().invoke(main, [*words, "--older-than", "0", "--json"])
    assert result.exit_code == 0, result.output
    assert {one["kind"] for one in document(result)["removed"]} == {"store"}
    assert document(result)["kept"][0]["name"] == "redis"
