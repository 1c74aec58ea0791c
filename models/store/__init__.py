"""The artefact store: versions and their files, in a folder or an object store."""

from models.store import safe_files
from models.store.backend import Store
from models.store.disk_cache import DiskCache
from models.store.mmap import mapped_copies, open_maps
from models.store.repository import Repository, open_repository

__all__ = [
    "DiskCache",
    "Repository",
    "Store",
    "mapped_copies",
    "open_maps",
    "open_repository",
    "safe_files",
]
