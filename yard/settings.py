"""Every setting, once: its name, unit, default and meaning.

Flags beat ``MODELYARD_*`` environment variables, which beat the defaults here. The table in
``docs/settings.md`` is made from this class by `table`, and a test holds the two together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from yard.errors import ConfigurationError

PREFIX = "MODELYARD_"
#: A file that a Redis URL names, for TLS.
_TLS_FILE = re.compile(r"([?&]ssl_(?:ca_certs|ca_path|certfile|keyfile)=)(?=[^/%&])([^&%]+)(?=&|$)")


class Settings(BaseModel):
    """Frozen; made by `Settings.load`, passed on as an argument, never read from a global."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    redis_url: str | None = Field(
        default=None,
        description="Redis to use: redis://, rediss:// (TLS), unix://, or redis+sentinel://"
        "host:port,host:port/service/db. Unset, `modelyard up` starts one of its own, and the "
        "other commands use the running yard's: that on the data folder, else your only one.",
    )
    yard: str | None = Field(
        default=None,
        description="The running yard to use, where several run and no `redis_url` is set: its "
        "name (of the folder with its `data`) or its path; `--yard`. `modelyard up` ignores it.",
    )
    data: str = Field(
        default="data", description="Folder of `modelyard up`: the embedded Redis' files and logs."
    )
    store: str = Field(
        default="store",
        description="Where the artefacts lie, {store}/{model}/{version}/: a folder, or an object "
        "store by its URL, as s3://bucket/prefix (see stores.md).",
    )
    store_cache: str | None = Field(
        default=None,
        description="Folder for what was read from a store by URL, and for files that workers map. "
        "Unset: `modelyard` in the user's cache folder.",
    )
    store_cache_bytes: int = Field(
        default=10 * 2**30,
        ge=1,
        description="Bytes of either kind in that folder, at most.",
    )
    host: str = Field(default="127.0.0.1", description="Address that the gateway listens on.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port that the gateway listens on.")
    gateway_processes: int = Field(default=1, ge=1, le=64, description="Gateway processes.")
    gateway_threads: int = Field(
        default=32,
        ge=4,
        le=4096,
        description="Calls that are not about jobs (models, routes, metrics) which one gateway "
        "process works on at once.",
    )
    gateway_waits: int = Field(
        default=1000,
        ge=1,
        le=4000,
        description="Calls that may wait for a job at once in one gateway process; one more gets "
        "its answer without waiting, and `predict` gets 503.",
    )
    pool_min: int = Field(
        default=1, ge=0, le=1024, description="Workers that the pool keeps running."
    )
    pool_max: int = Field(
        default=2, ge=1, le=1024, description="Workers that the pool runs at most."
    )
    fork_server: bool = Field(
        default=True,
        description="Whether workers are forked from a process that has imported the libraries, "
        "where the system allows it: they start in milliseconds and share its memory.",
    )
    idle_s: float = Field(
        default=60.0,
        gt=0,
        description="A worker above pool_min that was not needed for this long leaves.",
    )
    target_wait_s: float = Field(
        default=1.0,
        ge=0.01,
        le=3600,
        description="How long a job should wait at most: pools start workers by it.",
    )
    drain_s: float = Field(
        default=25.0,
        gt=0,
        description="On SIGTERM, how long a batch may go on before it is killed.",
    )
    lease_s: float = Field(
        default=3.0,
        ge=0.5,
        le=60,
        description="A worker that renews no lease for this long is taken for dead.",
    )
    look_s: float = Field(
        default=0.1,
        ge=0.01,
        le=5,
        description="How often an idle worker looks for jobs pushed without our client.",
    )
    batch_jobs: int = Field(default=64, ge=1, le=256, description="Jobs in a batch, at most.")
    batch_rows: int = Field(
        default=4096, ge=1, le=1_000_000, description="Rows in a batch, at most."
    )
    body_bytes: int = Field(
        default=8 * 2**20,
        ge=1024,
        description="Bytes of a request body or a job's payload, at most.",
    )
    rows: int = Field(default=10_000, ge=1, description="Rows in one job, at most.")
    queue_bound: int = Field(
        default=100_000, ge=1, description="Jobs waiting for one version, at most."
    )
    result_ttl_s: int = Field(
        default=3600, ge=1, le=604_800, description="How long a result lives."
    )
    failure_ttl_s: int = Field(
        default=86_400, ge=1, le=604_800, description="How long a failure lives."
    )
    idempotency_ttl_s: int = Field(
        default=86_400,
        ge=1,
        le=604_800,
        description="How long an idempotency key is remembered, at most: "
        "it is forgotten with its job.",
    )
    timeout_s: int = Field(
        default=60,
        ge=1,
        le=3600,
        description="A job that runs longer than this fails with `timeout`.",
    )
    attempts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="Crashes after which a job fails with `worker_crashed`.",
    )
    cache_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Loaded models of one worker, at most. Unset: 75 % of `worker_bytes`.",
    )
    pin_routed: bool = Field(
        default=False,
        description="Versions that get traffic by their route are not evicted from a worker's "
        "cache, once loaded; another that finds no room beside them is `model_unavailable`.",
    )
    warm_s: float = Field(
        default=30.0,
        ge=0,
        le=600,
        description="A flip waits this long, at most, until the pools have loaded the version; "
        "then it is refused. 0: flips do not wait.",
    )
    map_bytes: int = Field(
        default=16 * 2**20,
        ge=0,
        description="Files of a version from this size on are mapped from a copy in "
        "`store_cache`, so that the workers of a machine share their pages. 0: never.",
    )
    worker_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Memory of one worker, at most: above it, it leaves after its batch and "
        "another takes its place. Unset: its part of the machine's, or the container's, memory.",
    )
    log_level: str = Field(
        default="info",
        pattern="^(debug|info|warning|error)$",
        description="debug, info, warning or error.",
    )
    log_format: str = Field(
        default="json", pattern="^(json|text)$", description="json, or text for people."
    )

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **flags: Any) -> Settings:
        """Loads settings from ``environ`` (by default the process'); flags that are not None win.

        Raises:
            ConfigurationError: A value is out of its bounds.
        """
        source = os.environ if environ is None else environ
        values: dict[str, Any] = {
            name: source[variable(name)]
            for name in cls.model_fields
            if source.get(variable(name), "") != ""
        }
        values |= {name: value for name, value in flags.items() if value is not None}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            raise ConfigurationError(
                f"{variable(name)}={values.get(name)!r}: {first['msg']}"
            ) from None

    @property
    def is_store_remote(self) -> bool:
        """True if the store is named by a URL."""
        return "://" in self.store

    @property
    def store_location(self) -> str:
        """Location of the store for every process: its URL, or its absolute path."""
        return self.store if self.is_store_remote else str(self.store_path)

    @property
    def store_path(self) -> Path:
        """Absolute path of the store, where it is a folder."""
        return Path(self.store).resolve()

    def with_absolute_paths(self) -> Settings:
        """Returns settings that mean the same in another working folder."""
        paths = {"data": os.path.abspath(self.data), "store": self.store_location}
        if self.store_cache:
            paths["store_cache"] = os.path.abspath(self.store_cache)
        if self.redis_url:
            paths["redis_url"] = _TLS_FILE.sub(
                lambda found: found[1] + os.path.abspath(found[2]), self.redis_url
            )
        return self.model_copy(update=paths)

    def environ(self) -> dict[str, str]:
        """Returns the variables that give a child process these settings."""
        return {
            variable(name): str(value) for name, value in self.model_dump(exclude_none=True).items()
        }


def variable(name: str) -> str:
    """Returns the environment variable of a setting."""
    return PREFIX + name.upper()


def table() -> str:
    """Returns the settings as a Markdown table."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, info in Settings.model_fields.items():
        default = "unset" if info.default is None else f"`{info.default}`"
        lines.append(f"| `{variable(name)}` | {default} | {info.description} |")
    return "\n".join(lines) + "\n"
