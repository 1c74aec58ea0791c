"""The location of a store: a folder's path, or the URL of an object store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from models.store.backend import Store
from yard.errors import ConfigurationError
from yard.settings import variable

#: The schemes that name an object store.
SCHEMES = ("s3", "gs", "az")


def open_store(location: str) -> Store:
    """Returns the store that a path or URL names; nothing is read yet.

    Raises:
        ConfigurationError: It is no folder's path and no URL of an object store, or the client of
            object stores is not installed.
    """
    if "://" not in location:
        from models.store.folder import FolderStore

        return FolderStore(Path(location))
    _check_url(location)
    try:
        from models.store.object_store import ObjectStore
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{location} needs {error.name}: pip install 'modelyard[s3]'"
        ) from None
    return ObjectStore.at(location)


def _check_url(location: str) -> None:
    parts = urlsplit(location)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # not shown: it may be a secret
        raise ConfigurationError(
            f"{variable('store')}: a URL of an object store has no user, password or query; give "
            "credentials by the variables of its kind, AWS_ACCESS_KEY_ID and so on"
        )
    if parts.scheme not in SCHEMES or not parts.netloc or ".." in parts.path.split("/"):
        raise ConfigurationError(
            f"{variable('store')}={location!r}: is no {'://, '.join(SCHEMES)}://bucket/prefix, and "
            "a folder is given by its path"
        )
