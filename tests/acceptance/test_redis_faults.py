"""Pools and clients whose Redis is killed, stands still, is full, or is cut off from them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.worker import Worker as RqWorker

from models.publish.publisher import publish
from models.store.repository import Repository
from producer import Client, Handle
from tests.chaos.proxy import FaultProxy, Loss, calls
from tests.helpers import ROOT, estimators
from tests.helpers.redis_server import RedisServer
from tests.helpers.waiting import ends_soon, wait_until
from yard.contract import keys
from yard.contract.values import JobStatus, Request
from yard.errors import Unavailable, UnknownJob
from yard.settings import Settings

QUEUE = "echo@v1"


@pytest.fixture
def client(redis: Redis, redis_url: str) -> Iterator[Client]:
    """One that gives up a Redis that does not answer as soon as all clients do."""
    client = Client(redis_url)
    yield client
    client.close()


@pytest.fixture
def proxy(redis: Redis, redis_server: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy(redis_server.port) as proxy:
        yield proxy


def submit(client: Client, *numbers: float) -> list[Handle]:
    return [client.submit("echo", instances=[[number]]) for number in numbers]


def started(handle: Handle) -> None:
    wait_until(lambda: handle.get().status is JobStatus.STARTED, 60)


def crashes(redis: Redis, *handles: Handle) -> list[int]:
    return [int(redis.hget(keys.key("job", one.id), "my_crashes") or 0) for one in handles]


def stand_still(server: RedisServer, for_s: float) -> None:
    """Stop Redis for a while; connections stay open."""
    server.pause()
    threading.Event().wait(for_s)
    server.resume()


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


class TestStandingStill:
    """SIGSTOP: Redis' clock goes on, and what was sent meanwhile is carried out afterwards."""

    def test_nothing_that_lives_is_taken_from_its_worker(self, client, redis, redis_server, start):
        """Two pools: neither may take from the other, however long Redis stood still."""
        pools = [start(workers=2), start(workers=2)]
        pools[0].wait_for_workers(redis, 4)
        workers = pools[0].workers(redis)
        client.submit_many(Request("echo", [[0.0]]) for _ in range(20))
        slow = submit(client, *[estimators.SLOW] * 4)
        started(slow[-1])
        stand_still(redis_server, 4.0)
        assert submit(client, 1.0)[0].wait(60)["predictions"] == [1.0]
        jobs = [handle.wait(60) for handle in slow]
        assert [job["predictions"] for job in jobs] == [[estimators.SLOW]] * 4
        assert crashes(redis, *slow) == [0] * 4
        assert pools[0].workers(redis) == workers, "no worker has left"


class TestRestarts:
    @pytest.mark.parametrize("appendfsync", ["always", "everysec"])
    def test_a_redis_killed_under_load_loses_nothing_that_it_kept(
        self, appendfsync, tmp_path, start
    ):
        """With everysec, Redis may put a write off for 2 s while an fsync is slow: what it lost
        then it does not know, and all that it knows ends once."""
        with durable_redis(tmp_path, appendfsync) as (server, redis):
            pool = start(workers=2, url=server.url)
            workers = pool.wait_for_workers(redis, 2)
            accepted = self.accepted_under_restarts(server)
            for number, handle in accepted:
                try:
                    ended = handle.wait(60)
                except UnknownJob:
                    assert appendfsync == "everysec"
                    continue
                assert ended["predictions"] == [number]
                assert redis.xlen(keys.key("results", handle.id)) == 1
            assert pool.workers(redis) == workers, "no worker has left"
            assert not redis.exists(keys.LEASES, keys.key("wip", QUEUE))
            client = accepted[0][1].client
            assert isinstance(client, Client)
            client.close()
            pool.stop()

    def accepted_under_restarts(self, server: RedisServer) -> list[tuple[float, Handle]]:
        """Jobs that a client got accepted while Redis was killed and restarted three times."""
        client = Client(server.url)
        accepted: list[tuple[float, Handle]] = []
        stopped = threading.Event()

        def load() -> None:
            number = 0
            while not stopped.is_set():
                number += 1
                try:
                    handle = client.submit("echo", instances=[[float(number)]])
                except Unavailable:
                    continue
                accepted.append((float(number), handle))

        loader = threading.Thread(target=load)
        loader.start()
        for _ in range(3):
            wait_for_more(accepted, 50)
            server.kill()
            server.start()
            wait_for_more(accepted, 1)
            accepted[-1][1].wait(60)
        stopped.set()
        loader.join()
        return accepted

    def test_what_was_computed_while_redis_was_down_is_written_though_its_time_has_passed(
        self, tmp_path, start
    ):
        with durable_redis(tmp_path, "always") as (server, redis):
            pool = start(url=server.url)
            workers = pool.wait_for_workers(redis)
            hasty = Client(server.url, settings=Settings.load({}, timeout_s=2))
            submit(hasty, 0.0)[0].wait(60)
            (slow,) = submit(hasty, estimators.SLOW)
            started(slow)
            server.kill()
            threading.Event().wait(4.0)
            server.start()
            assert slow.wait(60)["predictions"] == [estimators.SLOW]
            assert slow.get().attempts == 1
            assert pool.workers(redis) == workers, "it was not ended for being late"
            hasty.close()
            pool.stop()

    def test_a_redis_that_forgot_everything_is_told_who_works(
        self, client, redis, redis_server, start, store
    ):
        """Without a file it comes back empty; once the catalogue is back, all goes on."""
        pool = start()
        workers = pool.wait_for_workers(redis)
        redis_server.kill()
        redis_server.start()
        publish_again(store, redis)
        assert submit(client, 1.0)[0].wait(60)["predictions"] == [1.0]
        wait_until(lambda: pool.workers(redis) == workers, 60, "its entry is whole again")
        (worker,) = RqWorker.all(connection=redis)
        assert worker.birth_date is not None
        assert worker.pid == next(iter(workers.values()))


@contextlib.contextmanager
def durable_redis(folder: Path, appendfsync: str) -> Iterator[tuple[RedisServer, Redis]]:
    """A Redis that keeps what it has accepted, with the store's model in its catalogue."""
    place = folder / "redis"
    place.mkdir()
    server = RedisServer(place, appendfsync)
    server.start()
    try:
        with server.client() as redis:
            publish_again(folder / "store", redis)
            yield server, redis
    finally:
        server.kill()


def wait_for_more(accepted: list[Any], count: int) -> None:
    wanted = len(accepted) + count
    wait_until(lambda: len(accepted) >= wanted, 60)


def publish_again(store: Path, redis: Redis) -> None:
    repository = Repository(store)
    echo = estimators.Echo(str(store.parent / "journal")).fit([[1.0]])
    publish(repository, redis, echo, "echo", "v1", [[1.0], [2.0]], activate=True)


class TestAway:
    def test_clients_are_told_so_at_once(self, client, redis, redis_server):
        """One time limit for each, also for many at once, whose submissions share round trips."""
        from tests.helpers.versions import register

        register(redis)
        (handle,) = submit(client, 1.0)
        for away, back in [
            (redis_server.pause, redis_server.resume),
            (redis_server.kill, redis_server.start),
        ]:
            away()
            try:
                for _ in range(2):
                    assert_unavailable(lambda: submit(client, 2.0))
                    assert_unavailable(lambda: client.get(handle.id))
                    assert_unavailable(lambda: client.cancel(handle.id))
                assert_many_unavailable(client)
            finally:
                back()
        register(redis)
        wait_until(lambda: submit(client, 3.0), 60)

    def test_a_pool_told_to_stop_meanwhile_does(self, client, redis, redis_server, start):
        pool = start(drain_s=1.0)
        pids = list(pool.wait_for_workers(redis).values())
        (slow,) = submit(client, estimators.SLOW)
        started(slow)
        redis_server.pause()
        assert pool.stop() == 0
        assert not any(map(is_alive, pids))
        redis_server.resume()

    def test_workers_whose_pool_is_killed_meanwhile_leave(self, client, redis, redis_server, start):
        pool = start(drain_s=1.0)
        pids = list(pool.wait_for_workers(redis).values())
        (slow,) = submit(client, estimators.SLOW)
        started(slow)
        redis_server.pause()
        try:
            pool.kill()
            wait_until(lambda: not any(map(is_alive, pids)), 60, "they leave")
        finally:
            redis_server.resume()

    def test_a_worker_started_meanwhile_can_be_told_to_leave(
        self, redis, redis_server, store, tmp_path
    ):
        import signal
        import subprocess
        import sys

        from tests.helpers.yards import clean_environ

        redis_server.pause()
        settings = Settings.load({}, redis_url=redis_server.url, store=str(store))
        log = tmp_path / "worker.log"
        with log.open("wb") as output:
            worker = subprocess.Popen(
                [sys.executable, "-m", "worker.process.worker", "w1", "", "*"],
                env=clean_environ() | settings.environ(),
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )
        try:
            wait_until(lambda: b"Redis is away" in log.read_bytes(), 60, interval_s=0.05)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0
        finally:
            worker.kill()
            worker.wait()
            redis_server.resume()


def assert_unavailable(call: Callable[[], object]) -> None:
    with ends_soon(), pytest.raises(Unavailable):
        call()


def assert_many_unavailable(client: Client) -> None:
    with ThreadPoolExecutor(32) as threads, ends_soon(10):
        for told in [threads.submit(submit, client, 2.0) for _ in range(32)]:
            assert isinstance(told.exception(), Unavailable)


class TestFull:
    def test_waiting_jobs_end_and_new_ones_are_refused_until_there_is_room(
        self, client, redis, start
    ):
        pool = start(workers=2, batch_jobs=4)
        workers = pool.wait_for_workers(redis, 2)
        waiting = submit(client, *map(float, range(200)), estimators.SLOW)
        redis.config_set("maxmemory", 1)
        with pytest.raises(Unavailable):
            submit(client, 1.0)
        jobs = [handle.wait(60) for handle in waiting]
        assert {job.status for job in jobs} == {JobStatus.FINISHED}
        assert crashes(redis, *waiting) == [0] * len(waiting)
        os.kill(next(iter(workers.values())), 9)
        redis.config_set("maxmemory", 0)
        assert submit(client, 1.0)[0].wait(60)["predictions"] == [1.0]

    def test_workers_are_seen_all_the_same(self, client, redis, start):
        pool = start()
        ((name, _),) = pool.wait_for_workers(redis).items()
        redis.config_set("maxmemory", 1)
        before = wait_until(lambda: redis.zscore(keys.PRESENCE, f"worker:{name}"), 60)
        ttl = redis.ttl(keys.key("worker", name))
        wait_until(lambda: (redis.zscore(keys.PRESENCE, f"worker:{name}") or 0) > before, 60)
        wait_until(lambda: redis.ttl(keys.key("worker", name)) >= ttl, 60)
        redis.config_set("maxmemory", 0)


class TestNetwork:
    @pytest.mark.parametrize("how", ["reset", "silence"])
    @pytest.mark.parametrize("script", ["claim", "finish", "renew"])
    def test_a_lost_reply_costs_no_attempt_and_writes_nothing_twice(
        self, client, redis, proxy, start, script, how
    ):
        pool = start(url=proxy.url, lease_s=3.0)
        pool.wait_for_workers(redis)
        submit(client, 0.0)[0].wait(60)
        proxy.lose(Loss(calls("worker", script), how, left=1))
        handles = submit(client, 1.0, 2.0, estimators.SLOW, 3.0)
        jobs = [handle.wait(60) for handle in handles]
        numbers = [job["predictions"][0] for job in jobs]
        assert numbers == [1.0, 2.0, estimators.SLOW, 3.0]
        assert sum(crashes(redis, *handles)) == 0
        assert all(redis.xlen(keys.key("results", job.id)) == 1 for job in jobs)
        wait_until(lambda: proxy.struck[f"reply, {how}"] == 1)

    def test_half_open_connections_are_noticed_and_made_anew(self, client, redis, proxy, start):
        pool = start(workers=2, url=proxy.url, lease_s=3.0)
        pool.wait_for_workers(redis, 2)
        submit(client, 0.0)[0].wait(60)
        (slow,) = submit(client, estimators.SLOW)
        started(slow)
        proxy.swallow(0.5)
        (later,) = submit(client, 1.0)
        assert later.wait(60)["predictions"] == [1.0]
        assert slow.wait(60)["predictions"] == [estimators.SLOW]

    def test_a_worker_hears_commands_again_after_its_connection_went_half_open(
        self, client, redis, proxy, start
    ):
        from rq.command import send_shutdown_command

        pool = start(url=proxy.url)
        ((name, pid),) = pool.wait_for_workers(redis).items()
        channel = keys.key("pubsub", name)
        wait_until(lambda: redis.pubsub_numsub(channel)[0][1] == 1, 60)
        proxy.swallow(0.5)

        def leaves() -> bool:
            send_shutdown_command(redis, name)
            return not is_alive(pid)

        wait_until(leaves, 60, interval_s=0.3)

    def test_waiting_clients_are_told_at_once_again_after_going_half_open(
        self, client, redis, proxy, start
    ):
        from producer.completions import CompletionListener

        pool = start()
        pool.wait_for_workers(redis)
        mailbox: CompletionListener[None] = CompletionListener(proxy.url, lambda told: None)
        try:
            mailbox.expect("nobody", None)
            wait_until(lambda: redis.pubsub_numsub(keys.ENDED)[0][1] == 1, 60)
            before = subscribers(redis)
            proxy.swallow(0.5)
            wait_until(lambda: subscribers(redis) - before, 60, "it has subscribed anew")
        finally:
            mailbox.close()

    def test_slow_and_crumbled_replies_change_nothing(self, client, redis, proxy, start):
        proxy.latency_s, proxy.chunk_bytes = 0.05, 1
        pool = start(url=proxy.url, lease_s=3.0)
        pool.wait_for_workers(redis)
        handles = submit(client, *map(float, range(50)))
        assert [handle.wait(60)["predictions"] for handle in handles] == [
            [float(n)] for n in range(50)
        ]
        assert sum(crashes(redis, *handles)) == 0


def subscribers(redis: Redis) -> set[str]:
    return {one["id"] for one in redis.client_list(_type="pubsub")}
