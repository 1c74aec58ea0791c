"""Rooms of the house: what a folder does not name in its face is private to it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from yard.platform import extras

ROOT = extras.root()

#: Every folder of the second level, as ``worker.queue``.
ROOMS = sorted(
    f"{package}.{folder.name}"
    for package in extras.PACKAGES
    for folder in (ROOT / package).iterdir()
    if (folder / "__init__.py").exists()
)

#: Public names of each package and room; a change here is a change for callers.
FACES: dict[str, str] = {
    "gateway.api": """
        ASYNC_VIEWS AsyncView AsyncViewIndex BLUEPRINTS Pages Problem REQUESTS registry_for
    """,
    "gateway.http": """
        Body BodyReader Headers HttpRequest HttpResponse SMALL_BYTES Threads WsgiBridge
        json_response
    """,
    "gateway.middleware": """
        RequestLog RequestRecord UNMATCHED code_of note noted problem problem_of problems
        request_log status_of template
    """,
    "gateway.server": "serve",
    "gateway.services": "AsyncClient Services attach services services_of",
    "models": "File Manifest Repository open_repository",
    "models.examples": "activate_examples publish_examples",
    "models.formats": """
        BYTES OnnxFile Raw Source Span VARINT fields message onnx_check read source_of varint
        zip_names
    """,
    "models.maintenance": "Depth Garbage Verdict archive gc verify",
    "models.optimize": "compile quantize_graph rows_around",
    "models.publish": "QuantizeReport check_catalogue publish quantize register register_store",
    "models.runtimes": """
        BatchInvariance Loaded ModelCache OnnxModel RUNTIMES RuntimeModule SklearnModel
        are_labels arrays call_of dense feeds_of find_inputs golden load open_joblib
        open_session open_skops prepare probabilities_of reachable release rows_at_once
        take_arrays
    """,
    "models.sandbox": """
        ArtefactRaised ArtefactRefused Exchange Fence Findings Limits Quantized Sandbox
        SandboxError
    """,
    "models.store": """
        DiskCache Repository mapped_copies open_folder open_maps open_repository read_at
        read_below read_named
    """,
    "producer": """
        Client Handle Job JobStatus ModelRef ModelyardError Request Route SafeJob Settings
        Signature
    """,
    "worker.inference": """
        BatchExecutor BatchResult Loader ServiceTimes Warmer cache_limit_bytes check run
        used_bytes worker_limit_bytes
    """,
    "worker.pool": "Pool",
    "worker.process": "unregister worker",
    "worker.queue": """
        Batch Claimed EndedBatch EndedJob GaveUp Lease MOST_TIMEOUT_S OUTAGE Prefetcher
        QueueScheduler Reaped Reason Suspended backoff keep_off reap retry_until_up sweep
    """,
    "yard.broker": """
        Argument OLDEST Script Subscription check_server connections redacted redis_reachable
        server_version
    """,
    "yard.cluster": """
        Bounds CrashLoop DEFINITIONS KEEP LOOP MetricDefinition Pace PoolInfo Presence Series
        WORKER_STATES Work announce announced_arrivals_s announced_start_s count_crash
        format_problem held_back is_long labels_of metrics note_crash parse_field
        read_crash_loops read_presence read_workload seconds_of_work settle_format waits_s
        wanted why_none_looks withdraw_worker write_paces
    """,
    "yard.contract": """
        ARGUMENTS Call Column ColumnType Failure Job JobStatus MOST_BYTES MOST_ERRORS ModelRef
        Output Request Route Signature TASK Task Timings check_job_id check_name check_outputs
        check_rows decode_call encode_call is_job_id is_name keys moment new_id parse_queue
        plain queue_name wire
    """,
    "yard.platform": "StopSignals cause_of child_environment extras logs pdeathsig signals",
    "yard.registry": """
        Catalog Published State catalog lifecycle model_names queue_names read_served_queues
        read_states read_versions
    """,
    "yard.routing": """
        Change Warmth cold flip point_of read_route read_wanted resolve routed_versions routes
        routing_error set_alias unmet warmup
    """,
}


def modules() -> Iterator[tuple[str, Path]]:
    for package in extras.PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def room_of(module: str) -> str:
    """``worker.queue`` of ``worker.queue.lease``; a module outside the rooms is of none."""
    room = ".".join(module.split(".")[:2])
    return room if room in ROOMS else ""


def imports(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, module and name of each ``from module import name`` of ours."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.lineno, node.module, alias.name


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: str(value)[-40:])
def test_a_module_takes_from_another_room_only_what_its_face_names(module: str, path: Path):
    strays = []
    for line, source, name in imports(path):
        room = room_of(source)
        if not room or room == room_of(module):
            continue
        if source != room or name not in import_module(room).__all__:
            strays.append(f"{path.name}:{line} takes {name} of {source}")
    assert not strays


@pytest.mark.parametrize("room", ROOMS)
def test_a_face_names_only_what_is_there(room: str):
    face = import_module(room)
    assert face.__doc__
    for name in getattr(face, "__all__", ()):
        try:
            getattr(face, name)
        except AttributeError:
            assert find_spec(f"{room}.{name}") is not None, name


@pytest.mark.parametrize("name", sorted(FACES))
def test_a_face_is_what_callers_know(name: str):
    assert sorted(import_module(name).__all__) == FACES[name].split()


def test_every_face_is_known():
    named = {room for room in [*extras.PACKAGES, *ROOMS] if hasattr(import_module(room), "__all__")}
    assert {name for name in named if not name.startswith("modelyard")} == set(FACES)
