"""Files that mean harm are refused, and leave nothing behind: no file, no process, no version.

The numbers are those of the list of attacks that these are examples of. Each file is handed to
`publish` as a careless data scientist would.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import secrets
import socket
import stat
import subprocess
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import psutil
import pytest
import skops.io
from onnx import TensorProto, helper
from sklearn.linear_model import LinearRegression, LogisticRegression

from models.formats import detect, onnx_check
from models.publish import examine
from models.publish.publisher import publish
from models.sandbox.limits import Fence, Limits
from models.store.repository import Repository
from tests.helpers.waiting import wait_until
from yard.errors import ConfigurationError, InvalidName

ROWS = [[1.0, 2.0], [3.0, 4.0]]
GOOD = LinearRegression().fit(ROWS, [1.0, 2.0])


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return exec, (self.code,)


@pytest.fixture
def store(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "store")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A file that no artefact may make."""
    return tmp_path / "pwned"


@pytest.fixture(autouse=True)
def _nothing_is_left(store: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    yield
    assert list(scratch.iterdir()) == []
    assert not store.root.exists() or store.models() == ["good"]


def refusal(store: Repository, path: Path, limits: Limits | None = None) -> str:
    """Publishing ``path`` fails, and what it says."""
    with pytest.raises(ConfigurationError) as caught:
        publish(store, None, path, "bad", "v1", ROWS, limits=limits)
    return caught.value.message


def fence() -> Fence:
    """The fences that this system has for a child."""
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        publish(Repository(Path(folder)), None, GOOD, "good", "v1", ROWS, progress=said.append)
    line = next(line for line in said if "process of its own" in line)
    return Fence(
        network="without a network" in line,
        files="writing nowhere else" in line,
        calls="without local sockets and file modes" in line,
    )


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# M1: joblib and pickle run code when they are opened.


@pytest.mark.parametrize("suffix", [".joblib", ".onnx", ".skops", ".txt", ""])
def test_a_pickle_bomb_writes_nothing_whatever_it_is_called(store, tmp_path, trap, suffix):
    code = f"import os; os.system('touch {trap}; touch pwned')"
    said = refusal(store, write(tmp_path / f"bomb{suffix}", pickle.dumps(Bomb(code))))
    assert "neither predict nor transform" in said
    if fence().files:
        assert not trap.exists()


@pytest.mark.parametrize(
    "pack",
    [zlib.compress, gzip.compress, bz2.compress, lzma.compress],
    ids=["zlib", "gzip", "bz2", "lzma"],
)
def test_a_packed_bomb_is_one_too(store, tmp_path, trap, pack):
    code = f"open({str(trap)!r}, 'w')"
    said = refusal(store, write(tmp_path / "bomb", pack(pickle.dumps(Bomb(code)))))
    assert "does not open" in said or "neither predict" in said
    if fence().files:
        assert not trap.exists()


def test_an_array_of_objects_is_no_model(store, tmp_path):
    raw = io.BytesIO()
    np.save(raw, np.array([Bomb("1/0")], dtype=object), allow_pickle=True)
    assert "an array of NumPy" in refusal(store, write(tmp_path / "a.npy", raw.getvalue()))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os._exit(3)", "ended the process"),
        ("import os; os.abort()", "crashed (SIGABRT)"),
        ("import ctypes; ctypes.string_at(0)", "crashed (SIGSEGV)"),
        ("raise SystemExit('bye')", "does not open"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "crashed (SIGKILL)"),
        ("import os; os.closerange(3, 256); 1/0", "ended the process"),
    ],
)
def test_a_bomb_takes_only_its_own_process_along(store, tmp_path, code, said):
    assert said in refusal(store, write(tmp_path / "bomb", pickle.dumps(Bomb(code))))
    publish(store, None, GOOD, "good", "v1", ROWS, compile=False)


def test_what_hangs_is_ended(store, tmp_path):
    bomb = write(tmp_path / "bomb", pickle.dumps(Bomb("import time; time.sleep(1000)")))
    assert "takes more than 0.5 s" in refusal(store, bomb, Limits(wall_s=0.5))


def test_what_computes_for_ever_is_ended(store, tmp_path):
    bomb = write(tmp_path / "bomb", pickle.dumps(Bomb("while True: pass")))
    assert "of processor time" in refusal(store, bomb, Limits(cpu_s=1, wall_s=60))


def test_what_takes_all_memory_is_ended(store, tmp_path):
    bomb = write(tmp_path / "bomb", pickle.dumps(Bomb("x = bytearray(10 * 2**30)")))
    assert "memory" in refusal(store, bomb).lower()


def test_what_fills_the_disk_is_ended(store, tmp_path):
    code = "f = open('big', 'wb')\nwhile True: f.write(bytes(2**20))"
    said = refusal(
        store, write(tmp_path / "bomb", pickle.dumps(Bomb(code))), Limits(file_bytes=2**22)
    )
    assert "OSError" in said


def test_no_process_of_a_bomb_lives_on(store, tmp_path):
    mark = str(10**6 + secrets.randbelow(10**6))  # no other test's
    code = f"import subprocess; subprocess.Popen(['sleep', '{mark}'], start_new_session=True)"
    refusal(store, write(tmp_path / "bomb", pickle.dumps(Bomb(code))))
    wait_until(lambda: not any(mark in each for each in _commands()))


def _commands() -> list[str]:
    return [" ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])]


def test_a_bomb_calls_nobody_and_sees_no_secret(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MODELYARD_REDIS_URL", "redis://:hunter2@example")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = server.getsockname()
        code = (
            f"import os, socket\ntry: socket.create_connection({address!r}, 2)\n"
            "except OSError as error: print(error)\n"
            "known = str(os.environ)\nraise ValueError(('PYTHONPATH' in known, 'hunter2' in known))"
        )
        said = refusal(store, write(tmp_path / "bomb", pickle.dumps(Bomb(code))))
        assert "(True, False)" in said
        if fence().network:
            with pytest.raises(TimeoutError):
                server.accept()


def test_a_bomb_cannot_end_who_publishes(store, tmp_path):
    if not fence().files:
        pytest.skip("this system does not keep signals from others")
    code = f"import os; os.kill({os.getpid()}, 15); os.kill(os.getppid(), 9)"
    said = refusal(store, write(tmp_path / "bomb", pickle.dumps(Bomb(code))))
    assert "PermissionError" in said


#: Code of bombs that reach for what the same user may change, each with `path` and `pid` before it.
REACHING = {
    "mode": "import os; os.chmod(path, 0o777)",
    "mode of what it reads": "import os; os.fchmod(os.open(path, os.O_RDONLY), 0o777)",
    "owner": "import os; os.chown(path, os.getuid(), os.getgid())",
    "times": "import os; os.utime(path, (1, 1))",
    "attributes": "import os; os.setxattr(path, 'user.x', b'y')",
    "limits": "import resource; resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))",
    "priority": "import os; os.setpriority(os.PRIO_PROCESS, pid, 19)",
    "signal": "import os; os.kill(pid, 0)",
    "socket": "import socket; socket.socket(socket.AF_UNIX).connect(path)",
    "datagram": "import socket; socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', path)",
    "namespaces": "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
    "libc.unshare(0x20000)\nraise OSError(ctypes.get_errno(), 'unshare')",
}


@pytest.mark.parametrize("what", REACHING)
def test_a_bomb_reaches_nothing_that_the_same_user_may_change(store, tmp_path, what):
    path = write(tmp_path / "mine", b"")
    path.chmod(0o600)
    before = path.stat()
    code = f"path, pid = {str(path)!r}, {os.getpid()}\n{REACHING[what]}"
    said = refusal(store, write(tmp_path / "bomb", pickle.dumps(Bomb(code))))
    if not fence().calls:
        pytest.skip("this system does not filter calls")
    assert "PermissionError" in said
    assert path.stat() == before


def test_a_bomb_does_not_talk_to_a_local_redis(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket may be too long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("redis.sock")
        server.listen()
        server.settimeout(0.2)
        code = (
            f"import socket\nline = socket.socket(socket.AF_UNIX)\n"
            f"line.connect({str(tmp_path / 'redis.sock')!r})\nline.sendall(b'FLUSHALL\\r\\n')"
        )
        said = refusal(store, write(tmp_path / "bomb", pickle.dumps(Bomb(code))))
        if not fence().calls:
            pytest.skip("this system does not filter calls")
        assert "PermissionError" in said
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_bomb_inherits_no_descriptors(store, tmp_path):
    """But /dev/null three times, a pipe for its answers, and a file for its output."""
    code = (
        "import os\ncount = 0\nfor fd in range(4096):\n try: os.fstat(fd); count += 1\n"
        " except OSError: pass\nraise ValueError(count)"
    )
    said = refusal(store, write(tmp_path / "bomb", pickle.dumps(Bomb(code))))
    assert said.endswith("5")


def test_what_the_child_is_kept_from_is_said_as_it_is():
    none = examine._fence_text(Fence())
    assert "with the network" in none
    assert "free to write" in none
    assert "free to use local sockets and to change the modes of files" in none
    every = examine._fence_text(Fence(network=True, files=True, calls=True))
    assert "free" not in every
    assert "without local sockets and file modes" in every


def test_what_answers_without_an_end_is_ended(store, tmp_path):
    code = (
        "import os\nfor fd in range(3, 20):\n try:\n  while True: os.write(fd, b'{}' * 5000)\n"
        " except OSError: pass"
    )
    said = refusal(
        store, write(tmp_path / "bomb", pickle.dumps(Bomb(code))), Limits(file_bytes=2**20)
    )
    assert "answers without an end" in said


# M2: a skops file names what is to be called.


def skops_with(change: Any) -> bytes:
    """A skops file of a fitted model whose schema was changed."""
    good = skops.io.dumps(LogisticRegression().fit(ROWS, [0, 1]))
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(made, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "schema.json":
                schema = json.loads(content)
                change(schema)
                content = json.dumps(schema).encode()
            target.writestr(name, content)
    return made.getvalue()


@pytest.mark.parametrize("loader", ["OperatorFuncNode", "MethodNode", "ConstructorFromReduceNode"])
def test_a_skops_file_that_names_something_to_call_is_refused(store, tmp_path, loader):
    def change(schema: Any) -> None:
        schema["content"]["content"]["C"] = {
            "__class__": "attrgetter",
            "__module__": "operator",
            "__loader__": loader,
            "__id__": 1,
            "content": {"obj": {}, "func": "system"},
            "attrs": {},
        }

    said = refusal(store, write(tmp_path / "bad.skops", skops_with(change)))
    assert f"names something to call ({loader})" in said


def test_a_skops_file_with_a_type_that_is_not_allowed_is_refused(store, tmp_path):
    def change(schema: Any) -> None:
        schema["__module__"], schema["__class__"] = "subprocess", "Popen"

    said = refusal(store, write(tmp_path / "bad.skops", skops_with(change)))
    assert "types that are not allowed: subprocess.Popen" in said


def test_a_skops_file_is_never_opened_as_a_pickle(store, tmp_path, trap):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("schema.json", pickle.dumps(Bomb(f"open({str(trap)!r}, 'w')")))
    refusal(store, write(tmp_path / "bad.skops", made.getvalue()))
    assert not trap.exists()


# M3: an ONNX file keeps weights in other files.


def graph(nodes: list[Any], initializers: list[Any] | None = None, **model: Any) -> bytes:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializers or [],
    )
    imports = [helper.make_opsetid("", 18)]
    content: bytes = helper.make_model(
        made, opset_imports=imports, ir_version=9, **model
    ).SerializeToString()
    return content


def external(location: str) -> Any:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.mark.parametrize(
    "location", ["../../etc/passwd", "a/../../x", "/etc/passwd", "weights.bin", "link", ""]
)
def test_weights_in_other_files_are_refused(store, tmp_path, location):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    raw = graph(nodes, [external(location)])
    assert "external data" in refusal(store, write(tmp_path / "m.onnx", raw))


def test_weights_in_other_files_are_found_wherever_they_hide(store, tmp_path):
    inner = helper.make_graph([], "inner", [], [], [external("/etc/passwd")])
    hidden = [
        helper.make_node("Constant", [], ["y"], value=external("/etc/passwd")),
        helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner),
    ]
    sparse = onnx.SparseTensorProto(values=external("x"), dims=[2])
    hidden.append(helper.make_node("Constant", [], ["y"], sparse_value=sparse))
    for node in hidden:
        with pytest.raises(ConfigurationError, match="external data"):
            onnx_check.inspect_onnx(graph([node]))


# M4: an ONNX file takes all memory or never ends.


def test_a_graph_that_makes_ten_gigabytes_is_refused(store, tmp_path):
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [50_000, 50_000])
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["big"]),
        helper.make_node("MatMul", ["x", "x2"], ["m"]),
        helper.make_node("Add", ["big", "m"], ["y"]),
    ]
    raw = graph(nodes, [shape, helper.make_tensor("x2", TensorProto.FLOAT, [2, 1], [1, 1])])
    said = refusal(store, write(tmp_path / "m.onnx", raw), Limits(memory_bytes=2**30, wall_s=30))
    assert "memory" in said.lower() or "alloc" in said.lower()


def test_a_graph_that_never_ends_is_refused(store, tmp_path):
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [None, 2]),
        ],
        [
            helper.make_tensor_value_info("d", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [None, 2]),
        ],
    )
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    raw = graph([helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)], [true])
    said = refusal(store, write(tmp_path / "m.onnx", raw), Limits(wall_s=1.5))
    assert "takes more than 1.5 s" in said


def test_a_graph_of_a_million_nodes_is_refused_before_it_is_opened(store, tmp_path):
    node = helper.make_node("Identity", ["x"], ["y"]).SerializeToString()
    many = (b"\x0a" + bytes([len(node)]) + node) * 1_000_000
    length, left = b"", len(many)
    while left > 127:
        length, left = length + bytes([left & 127 | 128]), left >> 7
    raw = b"\x08\x09" + b"\x3a" + length + bytes([left]) + many
    said = refusal(store, write(tmp_path / "m.onnx", raw))
    assert f"more than {onnx_check.MOST_NODES} nodes" in said


def test_operators_from_a_library_of_their_own_are_refused(store, tmp_path):
    raw = graph([helper.make_node("Evil", ["x"], ["y"], domain="evil.ops")])
    assert "operators of 'evil.ops'" in refusal(store, write(tmp_path / "m.onnx", raw))


# M5: archives that lead elsewhere.


def archive(*entries: tuple[str, bytes], mode: int = stat.S_IFREG | 0o600) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in (("schema.json", b"{}"), *entries):
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = mode << 16
            target.writestr(entry, content)
    return made.getvalue()


@pytest.mark.parametrize("name", ["../x", "/abs", "C:\\x", "a/../../x", "x\n", "folder/"])
def test_entries_that_lead_elsewhere_are_refused(store, tmp_path, name):
    raw = archive((name, b"x"))
    assert "is no plain file" in refusal(store, write(tmp_path / "m.skops", raw))


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR, stat.S_IFREG | 0o4755])
def test_entries_that_are_links_devices_or_setuid_are_refused(store, tmp_path, mode):
    raw = archive(("x", b"/etc/passwd"), mode=mode)
    assert "is no plain file" in refusal(store, write(tmp_path / "m.skops", raw))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_that_are_there_twice_are_refused(store, tmp_path):
    raw = archive(("x", b"1"), ("x", b"2"))
    assert "is there twice" in refusal(store, write(tmp_path / "m.skops", raw))


def test_too_many_entries_and_what_unpacks_to_far_too_much_are_refused(
    store, tmp_path, monkeypatch
):
    monkeypatch.setattr(detect, "MOST_ENTRIES", 50)
    many = archive(*((str(number), b"") for number in range(60)))
    assert "more than 50 entries" in refusal(store, write(tmp_path / "m.skops", many))
    monkeypatch.setattr(detect, "MOST_BYTES", 2**20)
    bomb = archive(("x", bytes(2**21)))
    assert "unpacks to far too much" in refusal(store, write(tmp_path / "m.skops", bomb))


def test_a_tar_is_no_model(store, tmp_path):
    (tmp_path / "x").write_text("x")
    subprocess.run(["tar", "cf", "m.tar", "x"], cwd=tmp_path, check=True)
    assert "a tar archive" in refusal(store, tmp_path / "m.tar")


# M6: names that lead elsewhere.


@pytest.mark.parametrize(
    "name",
    ["../v1", "..%2fv1", "v1\n", "v1\r\nX-A: b", "v1*", "{v1}", "v" * 300, "\uff36\uff11", ".v1",
     "<img src=x>", "con/x", "v1 :x", "\u202ev1", ""],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused_before_anything_is_opened(store, name):
    with pytest.raises(InvalidName):
        publish(store, None, Path("/does/not/exist"), name, "v1", ROWS)
    with pytest.raises(InvalidName):
        publish(store, None, Path("/does/not/exist"), "good", name, ROWS)


# M7: a file is replaced between the check and the use.


def test_what_is_checked_is_what_is_stored_whatever_becomes_of_the_file(store, tmp_path, trap):
    path = tmp_path / "good.joblib"
    joblib.dump(GOOD, path)
    good = path.read_bytes()

    def swap(line: str) -> None:
        if line.startswith("read "):
            path.write_bytes(pickle.dumps(Bomb(f"open({str(trap)!r}, 'w')")))

    manifest = publish(store, None, path, "good", "v1", ROWS, progress=swap)
    assert store.read(manifest.ref, "model.joblib") == good
    assert not trap.exists()


def mlflow(folder: Path, flavours: str) -> Path:
    folder.mkdir()
    (folder / "MLmodel").write_text(f"flavors:\n{flavours}")
    return folder


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("link.pkl", "symbolic link"),
        ("linked/model.pkl", "Not a directory"),
        ("../outside.pkl", "which is not in it"),
        ("/etc/passwd", "which is not in it"),
        ("gone.pkl", "has no gone.pkl"),
        ("pipe", "no regular file"),
        (".", "not in it"),
    ],
)
def test_a_folder_of_mlflow_names_only_its_own_files(store, tmp_path, name, said):
    joblib.dump(GOOD, tmp_path / "outside.pkl")
    folder = mlflow(tmp_path / "model", f"  sklearn:\n    pickled_model: {name}\n")
    (folder / "link.pkl").symlink_to(tmp_path / "outside.pkl")
    (folder / "linked").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(folder / "pipe")
    assert said in refusal(store, folder)


def test_yaml_that_makes_objects_is_not_read(store, tmp_path, trap):
    folder = mlflow(tmp_path / "model", f"  !!python/object/apply:os.system ['touch {trap}']\n")
    assert "is not YAML" in refusal(store, folder)
    assert not trap.exists()
