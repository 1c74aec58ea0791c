"""What is known of an artefact before it is stored: asked of a child process that opens it.

`models.publish.publisher` hands over bytes whose format is known; this asks `models.sandbox.client`
and puts the child's lines together. A child that fails before it has described the artefact is a
reason not to publish; one that fails later, while it compiles, only leaves the version uncompiled.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from pydantic import ValidationError

from models.formats import Source, onnx_check
from models.manifest import Compiled
from models.sandbox import (
    ArtefactRaised,
    ArtefactRefused,
    Fence,
    Findings,
    Limits,
    Sandbox,
    SandboxError,
)
from yard.contract import ModelRef
from yard.errors import ConfigurationError, InvalidInput

#: Address space for each byte of an artefact, beside what every child may take.
_GROWTH = 8
Tell = Callable[[str], None]

#: Opens artefacts for publishing; its process is started by the first question.
SANDBOX = Sandbox("models.publish.sandbox_tasks")


@dataclass(frozen=True, slots=True)
class Examined:
    """What is known of an artefact.

    Attributes:
        findings: What it is and how it answers.
        decision: What was decided about a compiled form; None where none was asked for.
        graph: The compiled form, if it is used.
        fence: What the child was kept from.
    """

    findings: Findings
    decision: Compiled | None
    graph: bytes | None
    fence: Fence


class _Heard:
    """What a child has said so far."""

    def __init__(self, tell: Tell) -> None:
        self.findings: Findings | None = None
        self.decision: Compiled | None = None
        self.fence = Fence()
        self._tell = tell

    def line(self, known: Mapping[str, Any]) -> None:
        if "fence" in known:
            self.fence = Fence.model_validate(known["fence"])
            self._tell(f"opened in a process of its own, {_kept_from(self.fence)}")
        elif "found" in known:
            self.findings = Findings.model_validate(known["found"])
            task = self.findings.signature.task.replace("_", " ")
            self._tell(f"found {self.findings.kind}, as {task}")
        elif "compiled" in known:
            self.decision = Compiled.model_validate(known["compiled"])
        elif "progress" in known:
            self._tell(str(known["progress"])[:200])


def examine(
    source: Source,
    example: Sequence[Any],
    feature_names: Sequence[str] | None,
    *,
    compiles: bool,
    limits: Limits,
    tell: Tell,
) -> Examined:
    """Let a child open the artefact, answer the example, and compile it if asked to.

    Raises:
        InvalidInput: The example or the names do not fit.
        ConfigurationError: It does not open, is no model, does not answer, or breaks a limit.
    """
    heard = _Heard(tell)
    failure = ""
    with tempfile.TemporaryFile() as made:
        try:
            for known in SANDBOX.ask(
                "inspect",
                source.content,
                grown(limits, len(source.content)),
                made,
                format=source.format,
                example=list(example),
                feature_names=None if feature_names is None else list(map(str, feature_names)),
                compiles=compiles and source.format != "onnx",
            ):
                heard.line(known)
        except ArtefactRefused as error:
            raise our_error(error) from None
        except ArtefactRaised as error:
            failure = str(error) if heard.findings else f"does not open: {error}"
        except SandboxError as error:
            failure = str(error) if heard.findings else f"cannot be opened: {error}"
        except ValidationError as error:
            raise ConfigurationError(f"was described wrongly: {error.errors()[0]['msg']}") from None
        if heard.findings is None:
            raise ConfigurationError(failure or "cannot be opened: nothing was found")
        return _examined(heard, failure, made, compiles=compiles)


def grown(limits: Limits, size_bytes: int) -> Limits:
    """The limits for an artefact of this length."""
    more = limits.memory_bytes + _GROWTH * size_bytes
    return limits.model_copy(update={"memory_bytes": more})


def our_error(
    error: ArtefactRefused, ref: ModelRef | None = None
) -> ConfigurationError | InvalidInput:
    """What a child refused, as it would have been raised here."""
    if error.kind == "invalid_input":
        return InvalidInput(str(error))
    return ConfigurationError(f"{ref}: {error}" if ref else str(error))


def _examined(heard: _Heard, failure: str, made: IO[bytes], *, compiles: bool) -> Examined:
    assert heard.findings is not None
    decision, graph = heard.decision, None
    if compiles and failure:
        decision = Compiled(chosen="", reason=f"the converter failed: {failure}"[:2_000])
    elif decision is not None and decision.chosen:
        made.seek(0)
        graph = made.read()
        onnx_check.inspect(graph)
    return Examined(heard.findings, decision, graph, heard.fence)


def _kept_from(fence: Fence) -> str:
    kept = [
        "without a network" if fence.network else "with the network (this system keeps none away)",
        "writing nowhere else"
        if fence.files
        else "free to write (this system does not prevent it)",
    ]
    return ", ".join(kept)
