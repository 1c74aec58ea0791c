"""Detection of a file's format by its content; the suffix does not count.

`models.publish.publisher` reads its input once, through one descriptor, and goes on with those
bytes: they are examined here, opened in a child process and stored. Nothing is opened here; of
compressed files only the first bytes are unpacked, of a zip only its list of names is read.
"""

from __future__ import annotations

import bz2
import lzma
import re
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from models.formats import mlflow
from models.formats.onnx_check import is_onnx
from models.store import safe_files
from yard.errors import ConfigurationError

Format = Literal["joblib", "skops", "onnx"]

#: Bytes that an artefact may have.
MOST_BYTES = 2**33
#: Entries that a zip may have.
MOST_ENTRIES = 10_000
_PICKLE = re.compile(rb"\x80[\x02-\x05]|c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n")
_HEAD = 256
#: A block of bz2 is unpacked as a whole, so its first byte may need this many.
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Artefact:
    """The input of a publish, read once.

    Attributes:
        format: How it is opened; a pickle is opened like a file of joblib.
        content: Its bytes.
        description: Its format in words.
    """

    format: Format
    content: bytes
    description: str


def read_artefact(path: Path) -> Artefact:
    """Reads the artefact at ``path``: a file, or a folder that MLflow has written.

    Raises:
        ConfigurationError: It cannot be read, or is nothing that can be published; the message says
            what it looks like.
    """
    if path.is_dir():
        return _of_mlflow(path)
    try:
        content = safe_files.read_named(path, MOST_BYTES)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from None
    return detect_artefact(content, str(path))


def _of_mlflow(folder: Path) -> Artefact:
    found = mlflow.read_model_file(folder, MOST_BYTES)
    artefact = detect_artefact(found.content, found.name)
    if (found.flavour == "onnx") != (artefact.format == "onnx"):
        raise ConfigurationError(
            f"{found.name}: is {artefact.description}, which {mlflow.MLMODEL} calls the "
            f"{found.flavour} flavour"
        )
    return replace(
        artefact, description=f"an MLflow model, {found.flavour} flavour: {artefact.description}"
    )


def detect_artefact(content: bytes, name: str) -> Artefact:
    """Returns ``content`` with its format.

    Raises:
        ConfigurationError: It is nothing that can be published; the message says what it is.
    """
    if len(content) > MOST_BYTES:
        raise ConfigurationError(f"{name}: is longer than {MOST_BYTES} bytes")
    if _PICKLE.match(content):
        return Artefact("joblib", content, "joblib or pickle")
    for compression, magic, unpack in _COMPRESSIONS:
        if (
            content.startswith(magic)
            and (head := _try_unpack(unpack, content[:_BLOCK])) is not None
        ):
            if _PICKLE.match(head):
                return Artefact(
                    "joblib", content, f"joblib or pickle, compressed with {compression}"
                )
            raise ConfigurationError(
                f"{name}: is compressed with {compression}, and inside is {_looks_like(head)}, "
                "no model"
            )
    if content.startswith(b"PK\x03\x04"):
        _check_skops(content, name)
        return Artefact("skops", content, "skops")
    if is_onnx(content):
        return Artefact("onnx", content, "ONNX")
    raise ConfigurationError(
        f"{name}: looks like {_looks_like(content)}; what can be published is a file of joblib, "
        "pickle or skops with a scikit-learn estimator, an ONNX file, or an MLflow model folder"
    )


def zip_names(content: bytes, name: str) -> list[str]:
    """Returns the entries of a zip, each a plain file below its root, and there once.

    Raises:
        ConfigurationError: It is broken, has too many entries, or an entry is not a plain file.
    """
    import io
    import zipfile

    _check_count(content, name)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises a dozen kinds on broken files
        raise ConfigurationError(f"{name}: is a broken zip: {error}") from None
    if len(entries) > MOST_ENTRIES:
        raise ConfigurationError(f"{name}: has more than {MOST_ENTRIES} entries")
    seen: set[str] = set()
    unpacked = 0
    for entry in entries:
        path = PurePosixPath(entry.filename)
        mode = entry.external_attr >> 16
        is_plain = (
            not path.is_absolute()
            and ".." not in path.parts
            and not re.search(r"[\\:\x00-\x1f]", entry.filename)
            and stat.S_IFMT(mode) in (0, stat.S_IFREG)
            and not mode & 0o7000
            and not entry.is_dir()
        )
        if not is_plain or entry.filename in seen:
            raise ConfigurationError(
                f"{name}: its entry {entry.filename[:80]!r} is no plain file, or is there twice"
            )
        seen.add(entry.filename)
        unpacked += entry.file_size
        if entry.file_size > 1000 * max(1, entry.compress_size) + 2**16 or unpacked > MOST_BYTES:
            raise ConfigurationError(f"{name}: is a zip that unpacks to far too much")
    return sorted(seen)


def _check_count(content: bytes, name: str) -> None:
    """Refuses a zip that declares too many entries, before a list of them is made."""
    place = content.rfind(b"PK\x05\x06", max(0, len(content) - 65_600))
    if place < 0 or len(content) - place < 22:
        raise ConfigurationError(f"{name}: is a broken zip: it has no end")
    count = struct.unpack_from("<H", content, place + 10)[0]
    if count > MOST_ENTRIES:  # 65,535 stands for more
        raise ConfigurationError(f"{name}: has more than {MOST_ENTRIES} entries")
    size = struct.unpack_from("<I", content, place + 12)[0]
    if size > MOST_ENTRIES * 256:
        raise ConfigurationError(f"{name}: has too long a list of entries")


def _check_skops(content: bytes, name: str) -> None:
    names = zip_names(content, name)
    if "schema.json" not in names:
        shown = ", ".join(names[:3]) or "nothing"
        kinds = {
            "data.pkl": "a PyTorch file",
            "config.json": "a Keras file",
            "constants.pkl": "a TorchScript file",
        }
        last = {PurePosixPath(entry).name for entry in names}
        kind = next((description for key, description in kinds.items() if key in last), "a zip")
        if names and all(entry.endswith(".npy") for entry in names):
            kind = "a file of numpy.savez"
        raise ConfigurationError(f"{name}: looks like {kind} with {shown}; it is no skops file")


def _unzlib(head: bytes) -> bytes:
    return zlib.decompressobj().decompress(head, _HEAD)


def _ungzip(head: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(head, _HEAD)


def _unbz2(head: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(head, _HEAD)


def _unlzma(head: bytes) -> bytes:
    return lzma.LZMADecompressor(memlimit=2**30).decompress(head, _HEAD)


def _unlz4(head: bytes) -> bytes:
    try:
        from lz4 import frame
    except ImportError:
        raise ConfigurationError("it is compressed with lz4: pip install lz4") from None
    unpacked: bytes = frame.LZ4FrameDecompressor().decompress(head, max_length=_HEAD)
    return unpacked


def _try_unpack(unpack: Callable[[bytes], bytes], head: bytes) -> bytes | None:
    """Returns the first unpacked bytes; None if they were not packed after all."""
    try:
        return unpack(head)
    except ConfigurationError:
        raise
    except Exception:
        return None


#: Compressions that joblib knows: name, first bytes, and function to unpack.
_COMPRESSIONS: tuple[tuple[str, bytes, Callable[[bytes], bytes]], ...] = (
    ("zlib", b"\x78", _unzlib),
    ("gzip", b"\x1f\x8b", _ungzip),
    ("bz2", b"BZh", _unbz2),
    ("xz", b"\xfd7zXZ\x00", _unlzma),
    ("lzma", b"\x5d\x00\x00", _unlzma),
    ("lz4", b"\x04\x22\x4d\x18", _unlz4),
)

#: Other files that are often given by mistake.
_OTHER_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"\x28\xb5\x2f\xfd", "a file compressed with zstd, which joblib does not open"),
    (b"\x93NUMPY", "an array of NumPy"),
    (b"\x89HDF", "an HDF5 file, perhaps of Keras"),
    (b"ORTM", "onnxruntime's own format; publish the ONNX file"),
    (b"GGUF", "a GGUF file"),
    (b"PAR1", "a Parquet file"),
    (b"\x7fELF", "a program"),
    (b"version https://git-lfs", "a pointer of Git LFS, whose file was not fetched"),
    (b"tree\n", "a model of LightGBM; convert it to ONNX"),
    (b"binf", "a model of XGBoost; convert it to ONNX"),
    (b"<", "XML or HTML"),
    (b"%PDF", "a PDF"),
)


def _looks_like(content: bytes) -> str:
    if not content:
        return "an empty file"
    for magic, description in _OTHER_FORMATS:
        if content.startswith(magic):
            return description
    if content[257:262] == b"ustar":
        return "a tar archive"
    if content[4:8] == b"TFL3":
        return "a TensorFlow Lite file"
    if content[8:9] == b"{" and content[:8].endswith(b"\x00\x00"):
        return "a safetensors file"
    if _is_text(content[:_HEAD]):
        return "JSON" if content.lstrip()[:1] in (b"{", b"[") else "text"
    return f"no format known here (first bytes {content[:8].hex(' ')})"


def _is_text(head: bytes) -> bool:
    try:
        text: Any = head.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\r\n\t" for letter in text)
