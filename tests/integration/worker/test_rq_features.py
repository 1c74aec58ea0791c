"""RQ's features, as plain RQ clients use them against a running pool: the table of docs/rq.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

import pytest
from redis import Redis
from rq import Callback, Queue, Repeat, Retry
from rq.cron import CronScheduler
from rq.exceptions import DuplicateJobError
from rq.group import Group
from rq.job import Dependency
from rq.job import Job as RqJob
from rq.registry import DeferredJobRegistry
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from models.publish.publisher import publish
from models.store.repository import Repository
from producer import Client
from tests.helpers import ROOT, estimators
from tests.helpers.pools import RunningPool, running_pool
from tests.helpers.protocol import QUEUE
from tests.helpers.redis_server import RedisServer, patient
from tests.helpers.waiting import wait_until
from worker.inference.batching import _FLAWS
from yard.contract import keys
from yard.contract.values import TASK_NAME

WEEK_S = 604_800


@pytest.fixture(scope="module")
def pool(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningPool]:
    folder = tmp_path_factory.mktemp("features")
    redis_server.start()
    with redis_server.client() as redis:
        redis.flushall()
        echo = estimators.Echo().fit([[1.0]])
        repository = Repository(folder / "store")
        publish(repository, redis, echo, "echo", "v1", [[1.0], [2.0]], activate=True)
        with running_pool(redis_server.url, folder / "store", folder) as pool:
            pool.wait_for_workers(redis)
            yield pool


@pytest.fixture
def redis(redis_server: RedisServer, pool: RunningPool) -> Iterator[Redis]:
    with redis_server.client() as redis:
        yield redis
        redis.delete(keys.SUSPENDED)


class Plain:
    """A plain RQ client of one queue, and what it sees of its jobs."""

    def __init__(self, redis: Redis, ours: Client) -> None:
        self.redis = redis
        self.ours = ours
        self.queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)

    def enqueue(self, number: float = 7.0, queue: str = QUEUE, **options: Any) -> RqJob:
        target = Queue(queue, connection=self.redis, serializer=JSONSerializer)
        return target.enqueue(TASK_NAME, kwargs={"instances": [[number]]}, **options)

    def data(self, number: float = 7.0, **options: Any) -> Any:
        return Queue.prepare_data(TASK_NAME, kwargs={"instances": [[number]]}, **options)

    def result(self, job: RqJob) -> Any:
        wait_until(lambda: self.redis.exists(keys.key("results", job.id)), 60)
        return job.latest_result()

    def has_run(self, job: RqJob, number: float = 7.0) -> None:
        result = self.result(job)
        assert result is not None
        assert result.return_value == {"predictions": [number]}

    def has_failed(self, job: RqJob) -> None:
        result = self.result(job)
        assert result is not None
        assert result.exc_string

    def fetch(self, job: RqJob) -> RqJob:
        return RqJob.fetch(job.id, connection=self.redis, serializer=JSONSerializer)

    def is_refused(self, job_id: str, *words: str) -> None:
        wait_until(lambda: self.redis.exists(keys.key("results", job_id)), 30)
        read: Any = self.redis.hgetall(keys.key("job", job_id))
        assert read[b"status"] == b"failed"
        assert b'"invalid_job"' in read[b"my_error"]
        for word in words:
            assert word in read[b"my_error"].decode()

    def ttl(self, job: RqJob) -> int:
        found: Any = self.redis.ttl(job.key)
        return int(found)

    def suspended(self) -> Any:
        self.redis.set(keys.SUSPENDED, 1)
        wait_until(
            lambda: b"busy" not in [self.redis.hget(w, "state") for w in self._workers()], 30
        )

    def resume(self) -> None:
        self.redis.delete(keys.SUSPENDED)

    def _workers(self) -> list[Any]:
        found: Any = self.redis.smembers(keys.WORKERS)
        return list(found)


@pytest.fixture
def plain(redis: Redis, redis_server: RedisServer) -> Iterator[Plain]:
    client = Client(patient(redis_server.url))
    yield Plain(redis, client)
    client.close()


CASES: dict[str, Callable[[Plain], None]] = {}


def case(feature: str) -> Callable[[Callable[[Plain], None]], Callable[[Plain], None]]:
    """The function is the test of a row of the table."""

    def keep(function: Callable[[Plain], None]) -> Callable[[Plain], None]:
        CASES[feature] = function
        return function

    return keep


PAGE = ROOT / "docs" / "rq.md"


def table() -> dict[str, str]:
    """The rows of the first table: feature to ``honoured`` or ``refused``."""
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (honoured|refused) \| .*\|$", text, re.MULTILINE)
    return {feature.replace("`", ""): verdict for feature, verdict in rows}


@pytest.mark.skipif(not PAGE.is_file(), reason="no checkout: docs/ is not here")
def test_the_table_lists_every_case_with_its_verdict():
    assert set(table()) == set(CASES)
    refused = {feature for feature, verdict in table().items() if verdict == "refused"}
    assert {f for f in CASES if CASES[f].__name__.startswith("refused")} == refused


@case("description")
def honoured_description(plain: Plain) -> None:
    job = plain.enqueue(description="mine")
    plain.has_run(job)
    job = plain.fetch(job)
    assert job.description == "mine"


@case("meta")
def honoured_meta(plain: Plain) -> None:
    job = plain.enqueue(meta={"who": "me"})
    plain.has_run(job)
    job = plain.fetch(job)
    assert job.meta == {"who": "me"}


@case("job_id")
def honoured_job_id(plain: Plain) -> None:
    plain.has_run(plain.enqueue(job_id="my_job-1"))
    assert plain.ours.get("my_job-1")["predictions"] == [7.0]


@case("an id above 64 characters")
def refused_long_id(plain: Plain) -> None:
    for length in (65, 255):
        job = plain.enqueue(job_id="x" * length)
        plain.is_refused(job.id, "at most 64 characters")
        assert 0 < plain.ttl(job) <= WEEK_S


@case("at_front")
def honoured_at_front(plain: Plain) -> None:
    plain.suspended()
    jobs = [plain.enqueue(1.0), plain.enqueue(2.0, at_front=True)]
    waiting: Any = plain.redis.lrange(keys.key("queue", QUEUE), 0, -1)
    assert [raw.decode() for raw in waiting] == [jobs[1].id, jobs[0].id]
    plain.resume()
    plain.has_run(jobs[0], 1.0)


@case("job_timeout")
def honoured_job_timeout(plain: Plain) -> None:
    hung = plain.enqueue(estimators.HANG, job_timeout=1)
    wait_until(lambda: plain.ours.get(hung.id).status.is_terminal, 60)
    error = plain.ours.get(hung.id).error
    assert error is not None
    assert error.code == "timeout"
    plain.has_run(plain.enqueue(job_timeout=-1))


@case("ttl")
def honoured_ttl(plain: Plain) -> None:
    plain.suspended()
    gone = plain.enqueue(ttl=1)
    kept = plain.enqueue(8.0, ttl=600)
    wait_until(lambda: not plain.redis.exists(gone.key), 30)
    plain.resume()
    plain.has_run(kept, 8.0)
    assert not plain.redis.exists(gone.key, keys.key("results", gone.id))
    plain.redis.delete(keys.QUARANTINE)


def _result_ttl(plain: Plain, low: int, high: int, **options: Any) -> None:
    job = plain.enqueue(**options)
    plain.has_run(job)
    assert low < plain.ttl(job) <= high
    results: Any = plain.redis.ttl(keys.key("results", job.id))
    assert low < results <= high


@case("result_ttl")
def honoured_result_ttl(plain: Plain) -> None:
    _result_ttl(plain, 0, 77, result_ttl=77)
    _result_ttl(plain, WEEK_S - 60, WEEK_S, result_ttl=10**9)


@case("result_ttl=-1")
def honoured_result_ttl_for_ever(plain: Plain) -> None:
    _result_ttl(plain, WEEK_S - 60, WEEK_S, result_ttl=-1)


@case("result_ttl=0")
def honoured_result_ttl_zero(plain: Plain) -> None:
    _result_ttl(plain, -1, 10, result_ttl=0)


def _failure_ttl(plain: Plain, low: int, high: int, **options: Any) -> None:
    job = plain.enqueue(estimators.RAISE, **options)
    plain.has_failed(job)
    assert low < plain.ttl(job) <= high


@case("failure_ttl")
def honoured_failure_ttl(plain: Plain) -> None:
    _failure_ttl(plain, 0, 77, failure_ttl=77)
    _failure_ttl(plain, 86_000, 86_400)


@case("failure_ttl=-1")
def honoured_failure_ttl_for_ever(plain: Plain) -> None:
    _failure_ttl(plain, WEEK_S - 60, WEEK_S, failure_ttl=-1)


@case("failure_ttl=0")
def honoured_failure_ttl_zero(plain: Plain) -> None:
    _failure_ttl(plain, -1, 10, failure_ttl=0)


@case("unique")
def honoured_unique(plain: Plain) -> None:
    plain.has_run(plain.enqueue(job_id="only-one", unique=True))
    with pytest.raises(DuplicateJobError):
        plain.enqueue(job_id="only-one", unique=True)


@case("enqueue_in")
def honoured_enqueue_in(plain: Plain) -> None:
    job = plain.queue.enqueue_in(timedelta(seconds=1), TASK_NAME, instances=[[7.0]])
    assert job.get_status() == "scheduled"
    plain.has_run(job)
    later = plain.queue.enqueue_in(timedelta(hours=1), TASK_NAME, instances=[[7.0]])
    plain.has_run(plain.enqueue())
    assert later.get_status() == "scheduled"
    later.cancel()
    wait_until(lambda: plain.ttl(later) > 0, 30)
    assert not plain.redis.exists(keys.key("scheduled", QUEUE))


@case("enqueue_at")
def honoured_enqueue_at(plain: Plain) -> None:
    options = {"instances": [[7.0]], "deadline_ms": 60_000}
    plain.has_run(plain.queue.enqueue_at(datetime(2020, 1, 1, tzinfo=UTC), TASK_NAME, **options))
    unversioned = Queue("echo", connection=plain.redis, serializer=JSONSerializer)
    plain.has_run(unversioned.enqueue_at(datetime(2020, 1, 1, tzinfo=UTC), TASK_NAME, **options))


@case("depends_on")
def honoured_depends_on(plain: Plain) -> None:
    first = plain.enqueue(estimators.SLOW)
    second = plain.enqueue(2.0)
    third = plain.enqueue(3.0, depends_on=[first, second])
    assert third.get_status() == "deferred"
    plain.has_run(third, 3.0)
    assert plain.ours.get(first.id).status.value == "finished"
    assert not plain.redis.exists(
        third.dependencies_key, first.dependents_key, second.dependents_key
    )
    assert not plain.redis.exists(keys.key("deferred", QUEUE))


@case("Dependency(allow_failure=True)")
def honoured_allow_failure(plain: Plain) -> None:
    first = plain.enqueue(estimators.RAISE)
    strict = plain.enqueue(1.0, depends_on=first)
    plain.has_run(plain.enqueue(2.0, depends_on=Dependency([first], allow_failure=True)), 2.0)
    assert strict.get_status() == "deferred", "it may be requeued"
    first.delete()
    plain.is_refused(strict.id, "depends_on")


@case("depends_on a job that is gone")
def refused_gone_dependency(plain: Plain) -> None:
    first = plain.enqueue(estimators.SLOW)
    second = plain.enqueue(2.0, depends_on=first)
    first.cancel()
    plain.redis.delete(first.key)
    plain.is_refused(second.id, "depends_on")
    registry = DeferredJobRegistry(QUEUE, connection=plain.redis, serializer=JSONSerializer)
    wait_until(lambda: second.id not in registry, 30)


@case("groups")
def honoured_groups(plain: Plain) -> None:
    group = Group.create(connection=plain.redis)
    jobs = group.enqueue_many(plain.queue, [plain.data(1.0), plain.data(2.0)])
    plain.has_run(jobs[0], 1.0)
    plain.has_run(jobs[1], 2.0)
    assert plain.redis.scard(group.key) == 2
    plain.redis.delete(*(job.key for job in jobs))
    wait_until(lambda: not plain.redis.exists(group.key, keys.GROUPS), 30)


@case("Job.cancel()")
def honoured_cancel(plain: Plain) -> None:
    plain.suspended()
    job = plain.enqueue()
    job.cancel()
    wait_until(lambda: plain.ttl(job) > 0, 30)
    plain.resume()
    assert plain.ours.get(job.id).status.value == "canceled"


@case("Job.requeue()")
def honoured_requeue(plain: Plain) -> None:
    job = plain.enqueue(estimators.RAISE)
    plain.has_failed(job)
    job.requeue()
    wait_until(lambda: plain.redis.xlen(keys.key("results", job.id)) == 2, 30)
    again = plain.ours.get(job.id)
    assert (again.status.value, again.attempts) == ("failed", 1), "a run has its own attempts"


@case("Retry")
def refused_retry(plain: Plain) -> None:
    plain.is_refused(plain.enqueue(retry=Retry(max=3, interval=[1])).id, "Retry")
    plain.is_refused(plain.enqueue(retry=Retry(max=3), queue="echo").id, "Retry")


@case("Repeat")
def refused_repeat(plain: Plain) -> None:
    plain.is_refused(plain.enqueue(repeat=Repeat(times=2)).id, "Repeat")


@case("on_success")
def refused_on_success(plain: Plain) -> None:
    plain.is_refused(plain.enqueue(on_success=Callback("os.system")).id, "on_success")


@case("on_failure")
def refused_on_failure(plain: Plain) -> None:
    plain.is_refused(plain.enqueue(on_failure=Callback("os.system")).id, "on_failure")


@case("on_stopped")
def refused_on_stopped(plain: Plain) -> None:
    plain.is_refused(plain.enqueue(on_stopped=Callback("os.system")).id, "on_stopped")


@case("webhooks")
def refused_webhooks(plain: Plain) -> None:
    hook = Webhook("http://127.0.0.1:9/", "finished")
    plain.is_refused(plain.enqueue(webhooks=[hook]).id, "webhooks")


def predict(**_arguments: Any) -> None:
    """A function for RQ's cron, which takes no name."""


@case("rq cron")
def refused_cron(plain: Plain) -> None:
    cron = CronScheduler(connection=plain.redis)
    cron_job = cron.register(predict, QUEUE, kwargs={"instances": [[1.0]]}, interval=3600)
    job = cron_job.enqueue(plain.redis)
    plain.is_refused(job.id, "serializer='json'")
    plain.redis.delete("rq:cron_jobs", *plain.redis.scan_iter("rq:cron*"))


@case("a pickled payload")
def refused_pickle(plain: Plain) -> None:
    job = Queue(QUEUE, connection=plain.redis).enqueue(TASK_NAME, instances=[[1.0]])
    plain.is_refused(job.id, "serializer='json'")


@case("another function")
def refused_function(plain: Plain) -> None:
    plain.is_refused(plain.queue.enqueue("os.system", "true").id, TASK_NAME)


def test_each_flaw_that_a_script_finds_has_a_sentence():
    source = files("worker").joinpath("scripts", "take.lua").read_text(encoding="utf-8")
    listed = re.search(r"^local FLAWS = \{(.+?)\}", source, re.MULTILINE)
    assert listed is not None
    assert set(re.findall(r"'(\w+)'", listed[1])) <= set(_FLAWS)


@pytest.mark.parametrize("feature", sorted(CASES))
def test_a_feature_of_the_table(plain: Plain, feature: str):
    CASES[feature](plain)
