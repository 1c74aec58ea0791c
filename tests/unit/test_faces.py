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
        ASYNC_VIEWS AsyncView AsyncViewIndex BLUEPRINTS Pages Problem REQUESTS configure_flask
        query_names registry_for
    """,
    "gateway.http": """
        Body BodyReader DisconnectGuard Headers HttpRequest HttpResponse RequestHead
        SMALL_BYTES Threads WsgiBridge check_query declared_bytes head_in json_response
    """,
    "gateway.middleware": """
        Handler Middleware MiddlewareChain RequestLog add_safe_headers assign_request_id
        check_message code_of problem problem_of status_of
    """,
    "gateway.server": "serve",
    "gateway.services": "AsyncClient BodyProcesses Services attach services services_of",
    "models": "File Manifest Repository open_repository",
    "models.examples": "activate_examples publish_examples",
    "models.formats": """
        Artefact OnnxFile detect_artefact inspect_onnx protobuf read_artefact zip_names
    """,
    "models.maintenance": "Depth Garbage Verdict archive find_garbage remove_garbage verify",
    "models.optimize": "compile quantize_graph rows_around",
    "models.publish": """
        QuantizeReport check_catalogue publish quantize register register_store try_version
    """,
    "models.runtimes": """
        Loaded ModelCache OnnxModel RUNTIMES SklearnModel arrays golden is_same_release load
        memory_size open_joblib open_session open_skops prepare sklearn_calls sklearn_tuning
        tensors
    """,
    "models.sandbox": """
        ArtefactDescription ArtefactRaised ArtefactRefused Exchange Fence Limits Quantized
        Sandbox SandboxError
    """,
    "models.store": "DiskCache Repository Store mapped_copies open_maps open_repository safe_files",
    "producer": """
        Client Handle Job JobStatus ModelRef ModelyardError Request Route SafeJob Settings
        Signature
    """,
    "worker": "BatchWorker",
    "worker.inference": """
        BatchExecutor BatchObserver BatchResult Loader MetricsObserver ServiceTimes Warmer
        cache_limit_bytes check predict_members used_bytes worker_limit_bytes
    """,
    "worker.pool": "Pool",
    "worker.process": "BatchWorker unregister worker",
    "worker.queue": """
        Batch Claimed EndedBatch EndedJob GaveUp Lease MOST_TIMEOUT_S OUTAGE OrphanCollector
        Prefetcher QueueScheduler Reaped Reason Retry Suspended UNREACHABLE backoff
        describe_outage enqueue_due keep_off reap retry_until_up sweep
    """,
    "yard.broker": """
        OLDEST_REDIS Script ScriptArgument Subscription check_server connections redact_url
        redis_reachable server_version
    """,
    "yard.cluster": """
        Bounds CrashLoop KEEP_HEADROOM LOOP_CRASHES METRIC_DEFINITIONS MetricDefinition Pace
        PoolInfo Presence Series WORKER_STATES Work announce_presence announced_arrivals_s
        announced_start_s believed_wait_s count_crash format_problem has_long_batches
        held_back_queues metrics parse_metric_field read_crash_loops read_mistyped_keys
        read_presence read_waiting_since_s read_waits_s read_workload record_crash
        seconds_of_work settle_format version_labels why_no_pool_works withdraw_worker
        workers_wanted write_paces
    """,
    "yard.contract": """
        Call Column ColumnType Failure JOB_ARGUMENTS Job JobStatus MAX_INPUT_ERRORS
        MAX_PAYLOAD_BYTES ModelRef Output Request Route Signature TASK_NAME Task Timings
        check_job_id check_name check_outputs check_rows decode_call encode_call format_time
        inflate_payload is_job_id is_name keys lenient new_id parse_epoch_s parse_queue
        parse_time queue_name timestamps wire
    """,
    "yard.platform": """
        StopSignals child_environment exit_cause extras logs pdeathsig prctl renew_in_children
        run_folder signals work_folder
    """,
    "yard.registry": """
        Catalog PublishedVersion VersionState catalog lifecycle model_names queue_names
        read_served_queues read_state read_states read_versions
    """,
    "yard.routing": """
        RouteChange WarmupResult cold_versions flip_route look_at_routes read_route
        read_wanted_versions resolve routed_versions routes routing_error routing_point
        set_alias unmet_warmups warmup
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
