"""Versions for tests that need a catalogue entry but no artefact."""

from __future__ import annotations

from redis import Redis

from yard.contract import keys, wire
from yard.contract.values import Column, ModelRef, Output, Signature
from yard.registry import catalog


def signature_of(width: int) -> Signature:
    """A regressor's signature with ``width`` numeric inputs."""
    columns = [Column(name=f"x{place}") for place in range(width)]
    return Signature(inputs=columns, outputs=[Output(name="predictions", type="float64")])


def register(
    redis: Redis, model: str = "echo", version: str = "v1", width: int = 1, active: bool = True
) -> ModelRef:
    """Put a version into the catalogue, by default as the active one."""
    ref = ModelRef(model, version)
    signature = signature_of(width)
    manifest = wire.dumps({"signature": signature.model_dump(mode="json")})
    catalog.register(redis, ref, manifest, signature)
    if active:
        redis.set(keys.key("active", model), version)
    return ref
