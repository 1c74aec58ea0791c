"""Sandbox: a confined child process that opens untrusted model files."""

from models.sandbox.client import ArtefactRaised, ArtefactRefused, Sandbox, SandboxError
from models.sandbox.limits import Fence, Limits
from models.sandbox.messages import ArtefactDescription, Exchange, Quantized

__all__ = [
    "ArtefactDescription",
    "ArtefactRaised",
    "ArtefactRefused",
    "Exchange",
    "Fence",
    "Limits",
    "Quantized",
    "Sandbox",
    "SandboxError",
]
