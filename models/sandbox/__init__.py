"""A confined child process that opens untrusted model files."""

from models.sandbox.client import ArtefactRaised, ArtefactRefused, Sandbox, SandboxError
from models.sandbox.limits import Fence, Limits
from models.sandbox.messages import Exchange, Findings, Quantized

__all__ = [
    "ArtefactRaised",
    "ArtefactRefused",
    "Exchange",
    "Fence",
    "Findings",
    "Limits",
    "Quantized",
    "Sandbox",
    "SandboxError",
]
