"""The artefact store: versions and their files, in a folder or an object store."""

from models.store.disk_cache import DiskCache
from models.store.mmap import mapped_copies, open_maps
from models.store.repository import Repository, open_repository
from models.store.safe_files import open_folder, read_at, read_below, read_named

__all__ = [
    "DiskCache",
    "Repository",
    "mapped_copies",
    "open_folder",
    "open_maps",
    "open_repository",
    "read_at",
    "read_below",
    "read_named",
]
