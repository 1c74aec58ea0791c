"""A reader of Dockerfiles that runs their steps without a container engine.

Each ``RUN`` goes through a shell; each ``COPY`` takes files that ``.dockerignore`` lets through.
A stage's file system is a folder, and an absolute path in the file is one in that folder. A base
image is a bare virtual environment at ``/usr/local``, where those images have their Python.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

#: The system's own programs, outside of any image.
_SYSTEM_PATH = "/usr/bin:/bin"


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile; continued lines are joined."""

    name: str
    text: str
    flags: dict[str, str]

    def words(self) -> list[str]:
        """The words of the exec form or of the shell form."""
        if self.text.startswith("["):
            found: list[str] = json.loads(self.text)
            return found
        return shlex.split(self.text)


@dataclass
class Stage:
    """One stage, as written in the file."""

    name: str
    base: str
    steps: list[Instruction] = field(default_factory=list)

    def last(self, name: str) -> Instruction | None:
        """The last instruction of a name, which is in force."""
        return next((step for step in reversed(self.steps) if step.name == name), None)


@dataclass(frozen=True)
class Image:
    """A stage that was built.

    Attributes:
        root: Its file system.
        environ: Its variables, with paths below ``root``.
        workdir: Folder in which commands run.
        entrypoint: The exec form.
        command: The exec form.
        health: The exec form of the health check.
        user: User and group that it runs as.
        stop_signal: Signal that asks it to stop.
    """

    root: Path
    environ: dict[str, str]
    workdir: str = "/"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    user: str = ""
    stop_signal: str = "SIGTERM"

    def argv(self, *command: str) -> list[str]:
        """The command line of a container, with another command if one is given."""
        program, *rest = [*self.entrypoint, *(command or self.command)]
        return [self.program(program), *rest]

    def program(self, name: str) -> str:
        """A program on the image's own path, never on this machine's."""
        found = shutil.which(name, path=self.environ["PATH"])
        assert found is not None, f"{name} is not in the image"
        assert Path(found).is_relative_to(self.root), f"{name} is this machine's: {found}"
        return found


def read(file: Path) -> tuple[dict[str, str], list[Stage]]:
    """The arguments before the first stage, and the stages."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for step in _instructions(file.read_text(encoding="utf-8")):
        if step.name == "FROM":
            base, _, name = re.split(r"\s+(AS|as)\s+", step.text)
            stages.append(Stage(name, base))
        elif not stages:
            name, _, value = step.text.partition("=")
            arguments[name] = value
        else:
            stages[-1].steps.append(step)
    return arguments, stages


def _instructions(text: str) -> Iterator[Instruction]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    for line in filter(None, map(str.strip, whole.splitlines())):
        name, _, rest = line.partition(" ")
        flags = {}
        while found := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
            flags[found[1]] = found[2]
            rest = rest[found.end() :]
        yield Instruction(name, rest.strip(), flags)


class Builder:
    """Builds stages, each once.

    Args:
        file: The Dockerfile.
        context: The folder that is sent to the engine.
        home: Folder of the stages' file systems.
    """

    def __init__(self, file: Path, context: Path, home: Path) -> None:
        self.arguments, stages = read(file)
        self._stages = {stage.name: stage for stage in stages}
        self._context, self._home = context, home
        self._patterns = (context / ".dockerignore").read_text().splitlines()
        self._built: dict[str, Image] = {}

    def build(self, name: str) -> Image:
        """Builds a stage, and before it the stages that it is made from."""
        if name not in self._built:
            stage = self._stages[name]
            image = self._begin(stage)
            arguments: dict[str, str] = {}
            for step in stage.steps:
                image = self._take(step, image, arguments)
            self._built[name] = image
        return self._built[name]

    def sent(self, path: str) -> list[Path]:
        """The files below a path of the context that ``.dockerignore`` lets through."""
        start = self._context / path
        files = [start] if start.is_file() else sorted(p for p in start.rglob("*") if p.is_file())
        return [file for file in files if self._is_sent(file.relative_to(self._context))]

    def _is_sent(self, path: Path) -> bool:
        """True if ``.dockerignore`` lets a path through: the last pattern that fits it decides."""
        is_sent = True
        places = [str(place) for place in (path, *path.parents)][:-1]
        for pattern in filter(None, self._patterns):
            if pattern.startswith("#"):
                continue
            wanted = pattern.removeprefix("!").removeprefix("**/")
            names = [Path(p).name for p in places] if "**/" in pattern else places
            if any(fnmatch.fnmatchcase(name, wanted) for name in names):
                is_sent = pattern.startswith("!")
        return is_sent

    def _begin(self, stage: Stage) -> Image:
        root = self._home / stage.name
        base = _expand(stage.base, self.arguments)
        if base in self._stages:
            before = self.build(base)
            _copy(before.root, root)
            _rename(root, before.root)
            environ = {k: v.replace(str(before.root), str(root)) for k, v in before.environ.items()}
            return replace(before, root=root, environ=environ)
        assert re.fullmatch(r"python:[\d.]+-slim-\w+", base), f"{base} is no slim Python"
        subprocess.run([sys.executable, "-m", "venv", root / "usr/local"], check=True)
        (root / "tmp").mkdir(mode=0o777)
        return Image(root, {"PATH": f"{root}/usr/local/bin:{_SYSTEM_PATH}", "LANG": "C.UTF-8"})

    def _take(self, step: Instruction, image: Image, arguments: dict[str, str]) -> Image:
        match step.name:
            case "ARG":
                name, _, value = step.text.partition("=")
                arguments[name] = value or self.arguments[name]
            case "ENV":
                return replace(image, environ=self._environ(step, image))
            case "WORKDIR":
                _inside(image.root, step.text).mkdir(parents=True, exist_ok=True)
                return replace(image, workdir=step.text)
            case "COPY":
                self._copy(step, image)
            case "RUN":
                self._run(step, image, arguments)
            case "ENTRYPOINT":
                return replace(image, entrypoint=tuple(step.words()), command=())
            case "CMD":
                return replace(image, command=tuple(step.words()))
            case "HEALTHCHECK":
                kind, _, rest = step.text.partition(" ")
                assert kind == "CMD", step
                return replace(image, health=tuple(json.loads(rest)))
            case "USER":
                return replace(image, user=step.text)
            case "STOPSIGNAL":
                return replace(image, stop_signal=step.text)
            case "LABEL" | "EXPOSE":
                pass
            case _:
                raise AssertionError(f"{step.name} is not understood here")
        return image

    def _environ(self, step: Instruction, image: Image) -> dict[str, str]:
        environ = dict(image.environ)
        for word in shlex.split(step.text):
            name, _, value = word.partition("=")
            value = re.sub(r"(^|:)/", rf"\1{image.root}/", value)
            environ[name] = _expand(value, image.environ)
        return environ

    def _run(self, step: Instruction, image: Image, arguments: dict[str, str]) -> None:
        image.program("python")  # a step must change the image's Python, never this one
        line = re.sub(r"(?<=[\s\"'=])/(?=[a-z])", f"{image.root}/", " " + step.text)
        through = {k: v for k, v in os.environ.items() if k.startswith(("PIP_INDEX", "PIP_EXTRA"))}
        through |= {k: v for k, v in os.environ.items() if k.upper().endswith("_PROXY")}
        through |= {k: v for k, v in os.environ.items() if k in ("PIP_CONFIG_FILE", "HOME")}
        ran = subprocess.run(
            ["/bin/sh", "-ec", line],
            cwd=_inside(image.root, image.workdir),
            env=through | image.environ | arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise StepFailed(f"{step.text}\n{ran.stdout}{ran.stderr}")

    def _copy(self, step: Instruction, image: Image) -> None:
        *sources, target = step.words()
        for source in sources:
            place = _inside(image.root, str(Path("/", image.workdir, target)))
            if "from" in step.flags:
                other = self.build(step.flags["from"])
                _copy(_inside(other.root, source), place)
                _rename(place, other.root, image.root)
            else:
                files = self.sent(source)
                assert files, f"{source} is not sent to the engine: see .dockerignore"
                self._copy_files(files, source, place, keeps_name=target.endswith("/"))

    def _copy_files(self, files: list[Path], source: str, place: Path, keeps_name: bool) -> None:
        for file in files:
            inner = file.relative_to(self._context / source)
            to = place / (Path(source).name if keeps_name else "") / inner
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, to)


class StepFailed(AssertionError):
    """A ``RUN`` ended with another status than 0; the message has its output."""


def _expand(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values[found[1]], text)


def _inside(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        # Links are fast, and safe: a file that is written afterwards is another file.
        shutil.copytree(
            source, target, symlinks=True, dirs_exist_ok=True, copy_function=_link_or_copy
        )
    else:
        shutil.copy2(source, target)


def _rename(place: Path, old: Path, new: Path | None = None) -> None:
    """Moves virtual environments: each names its own folder, which differs between stages here."""
    for configuration in place.rglob("pyvenv.cfg"):
        scripts = configuration.parent / "bin"
        for file in (configuration, *scripts.iterdir()):
            if file.is_file() and not file.is_symlink():
                text, mode = file.read_bytes(), file.stat().st_mode
                file.unlink()
                file.write_bytes(text.replace(os.fsencode(old), os.fsencode(new or place)))
                file.chmod(mode)


def _link_or_copy(source: str, target: str) -> None:
    if os.path.islink(source):
        shutil.copy2(source, target, follow_symlinks=False)
    else:
        os.link(source, target)
