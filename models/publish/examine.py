"""Examination of an artefact before it is stored, in a child process that opens it.

`models.publish.publisher` passes bytes whose format is known; this asks `models.sandbox.client` and
collects the child's lines. A child that fails before it has described the artefact is a reason not
to publish; one that fails later, while it compiles, only leaves the version uncompiled.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from pydantic import ValidationError

from models.formats import Artefact, detect_artefact, inspect_onnx
from models.manifest import Compiled, Manifest, artefact_name
from models.sandbox import (
    ArtefactDescription,
    ArtefactRaised,
    ArtefactRefused,
    Fence,
    Limits,
    Sandbox,
    SandboxError,
)
from yard.contract import ModelRef
from yard.errors import ConfigurationError, InvalidInput

#: Address space for each byte of an artefact, beside the limit of every child.
_GROWTH = 8
ReportProgress = Callable[[str], None]

#: Formats that are served as they are, by the runtime.
FORMATS = {"sklearn": "joblib", "skops": "skops", "onnx": "onnx"}
#: Opens artefacts for publishing; its server is started by the first question.
SANDBOX = Sandbox("models.publish.sandbox_tasks")


@dataclass(frozen=True, slots=True)
class Examination:
    """Result of an examination.

    Attributes:
        description: The artefact's kind and answers.
        decision: The decision about a compiled form; None where none was asked for.
        graph: The compiled form, if it is used.
        fence: Restrictions of the child.
    """

    description: ArtefactDescription
    decision: Compiled | None
    graph: bytes | None
    fence: Fence


class _Answers:
    """Answers of a child so far."""

    def __init__(self, report_progress: ReportProgress) -> None:
        self.description: ArtefactDescription | None = None
        self.decision: Compiled | None = None
        self.fence = Fence()
        self._report_progress = report_progress

    def add(self, line: Mapping[str, Any]) -> None:
        if "fence" in line:
            self.fence = Fence.model_validate(line["fence"])
            self._report_progress(f"opened in a process of its own, {_fence_text(self.fence)}")
        elif "found" in line:
            self.description = ArtefactDescription.model_validate(line["found"])
            task = self.description.signature.task.replace("_", " ")
            self._report_progress(f"found {self.description.kind}, as {task}")
        elif "compiled" in line:
            self.decision = Compiled.model_validate(line["compiled"])
        elif "progress" in line:
            self._report_progress(str(line["progress"])[:200])


def examine_artefact(
    artefact: Artefact,
    example: Sequence[Any],
    feature_names: Sequence[str] | None,
    *,
    compiles: bool,
    limits: Limits,
    report_progress: ReportProgress,
) -> Examination:
    """Opens the artefact in a child, which answers the example, and compiles it if asked to.

    Raises:
        InvalidInput: The example or the names do not fit.
        ConfigurationError: It does not open, is no model, does not answer, or breaks a limit.
    """
    answers = _Answers(report_progress)
    failure = ""
    with tempfile.TemporaryFile() as output:
        try:
            for line in SANDBOX.ask(
                "describe",
                artefact.content,
                limits_for(limits, len(artefact.content)),
                output,
                format=artefact.format,
                example=list(example),
                feature_names=None if feature_names is None else list(map(str, feature_names)),
                compiles=compiles and artefact.format != "onnx",
            ):
                answers.add(line)
        except ArtefactRefused as error:
            raise public_error(error) from None
        except ArtefactRaised as error:
            failure = str(error) if answers.description else f"does not open: {error}"
        except SandboxError as error:
            failure = str(error) if answers.description else f"cannot be opened: {error}"
        except ValidationError as error:
            raise ConfigurationError(f"was described wrongly: {error.errors()[0]['msg']}") from None
        if answers.description is None:
            raise ConfigurationError(failure or "cannot be opened: nothing was found")
        return _examination(answers, failure, output, compiles=compiles)


def try_version(
    manifest: Manifest,
    contents: Mapping[str, bytes],
    *,
    limits: Limits,
    report_progress: ReportProgress,
) -> None:
    """Loads a version that was published elsewhere in a child, as a worker will, with its example.

    Args:
        manifest: The version's manifest.
        contents: Its files by name, compared with the manifest.
        limits: Limits of the child.
        report_progress: Called with each progress line.

    Raises:
        ConfigurationError: A file is not what its name says, or the version does not load, does not
            answer its example as it did, or breaks a limit.
    """
    ref = manifest.ref
    for format_ in FORMATS.values():
        name = artefact_name(format_)
        found = detect_artefact(contents[name], name) if name in contents else None
        if found is not None and found.format != format_:
            raise ConfigurationError(f"{ref}: {name} is {found.description}")
    served = artefact_name(FORMATS.get(manifest.runtime, manifest.format))
    content = contents.get(served, b"")  # without its file, or its runtime, it does not load
    answers = _Answers(report_progress)
    is_loaded = False
    with tempfile.TemporaryFile() as output:
        try:
            for line in SANDBOX.ask(
                "load",
                content,
                limits_for(limits, len(content)),
                output,
                manifest=manifest.model_dump(mode="json"),
            ):
                answers.add(line)
                is_loaded |= line.get("loaded") is True
        except ArtefactRefused as error:
            raise ConfigurationError(str(error)) from None
        except SandboxError as error:
            raise ConfigurationError(f"{ref}: does not load: {error}") from None
        except ValidationError as error:
            raise ConfigurationError(f"{ref}: {error.errors()[0]['msg']}") from None
    if not is_loaded:
        raise ConfigurationError(f"{ref}: does not load: nothing was found")


def limits_for(limits: Limits, size_bytes: int) -> Limits:
    """Returns the limits for an artefact of this length."""
    more = limits.memory_bytes + _GROWTH * size_bytes
    return limits.model_copy(update={"memory_bytes": more})


def public_error(
    error: ArtefactRefused, ref: ModelRef | None = None
) -> ConfigurationError | InvalidInput:
    """Returns a child's refusal as the error that this process would have raised."""
    if error.kind == "invalid_input":
        return InvalidInput(str(error))
    return ConfigurationError(f"{ref}: {error}" if ref else str(error))


def _examination(
    answers: _Answers, failure: str, output: IO[bytes], *, compiles: bool
) -> Examination:
    assert answers.description is not None
    decision, graph = answers.decision, None
    if compiles and failure:
        decision = Compiled(chosen="", reason=f"the converter failed: {failure}"[:2_000])
    elif decision is not None and decision.chosen:
        output.seek(0)
        graph = output.read()
        inspect_onnx(graph)
    return Examination(answers.description, decision, graph, answers.fence)


def _fence_text(fence: Fence) -> str:
    parts = [
        "without a network" if fence.network else "with the network (this system keeps none away)",
        "writing nowhere else"
        if fence.files
        else "free to write (this system does not prevent it)",
        "without local sockets and file modes"
        if fence.calls
        else "free to use local sockets and to change the modes of files (this system does not "
        "prevent it)",
    ]
    return ", ".join(parts)
