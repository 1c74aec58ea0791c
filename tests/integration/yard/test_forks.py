"""Objects made before a fork work in the child, or raise at once, whatever the parent's threads do.

The parent is a process of its own, in which one thread holds every lock of an object while another
forks: a child that needs one of the parent's locks, threads or connections hangs.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from redis import Redis

from tests.helpers import ROOT
from tests.helpers.stand_ins import publish
from tests.helpers.yards import clean_environ

# How each object is made in the parent, and what is done with it in the child.
OBJECTS = {
    "a client that submits": (
        "Client(URL)",
        "assert it.wait(ended, 5).status == 'finished'; it.submit('iris', instances=[ROW])",
    ),
    "a client that reads": ("Client(URL)", "assert it.get(ended).id == ended"),
    "a client that cancels": ("Client(URL)", "it.cancel(it.submit('iris', instances=[ROW]).id)"),
    "a client that submits many": (
        "Client(URL)",
        "assert len(it.submit_many([Request('iris', [ROW])] * 100)) == 100",
    ),
    "a handle": (
        "client.submit('iris', instances=[ROW])",
        "it.cancel(); assert it.wait(5).status == 'canceled'",
    ),
    "a submitter": (
        "client.submitter",
        "job = it.prepare(Request('iris', [ROW])); assert it.submit([job])[0].id == job.id",
    ),
    "a catalogue": ("Catalog(connections.fast(URL))", "assert 'v1' in it.versions('iris')"),
    "a fast connection": ("used(connections.fast(URL))", "assert it.ping()"),
    "a steady connection": ("used(connections.steady(URL))", "assert it.ping()"),
    "a blocking connection": (
        "used(connections.blocking(URL, 1))",
        "it.rpush('mine', 'x'); assert it.blpop(['mine'], 1) == (b'mine', b'x')",
    ),
    "a group commit": ("GroupCommit(lambda items: items, len)", "assert it.ask(7) == 7"),
    "a listener": (
        "heard(CompletionListener(URL, told.extend))",
        "it.expect(ended, 'me'); until(lambda: told); assert told[0][0] == 'me'; it.close()",
    ),
    "a subscription": (
        "subscribed(Subscription(URL, 'here', 0.2))",
        "until(lambda: it.next() is None and it.is_confirmed); client.redis.publish('here', 'x'); "
        "until(lambda: it.next() == b'x')",
    ),
    "the gateway's calls": (
        "RedisBatcher('calls', FutureSettler(asyncio.new_event_loop()), list)",
        "assert raised(lambda: it.enqueue(1)) is ConfigurationError",
    ),
}

PARENT = """
import asyncio, gc, os, signal, sys, threading, time, warnings
from contextlib import ExitStack
warnings.simplefilter("ignore")  # that it forks with threads is what this is about

from gateway.services.redis_batcher import FutureSettler, RedisBatcher
from producer import Client
from producer.completions import CompletionListener
from producer.group_commit import GroupCommit
from tests.helpers.stand_ins import ROW, finish
from yard.broker import Subscription, connections
from yard.contract import Request
from yard.errors import ConfigurationError
from yard.registry import Catalog

URL = sys.argv[1]
LOCKS = (type(threading.Lock()), type(threading.RLock()))
told = []
client = Client(URL)
ended = client.submit("iris", instances=[ROW]).id
finish(client.redis, ended, {"predictions": ["setosa"]})

def until(condition):
    while not condition():
        time.sleep(0.01)

def raised(act):
    try:
        act()
    except Exception as error:
        return type(error)

def used(redis):
    redis.ping()
    return redis

def heard(listener):
    listener.expect(client.submit("iris", instances=[ROW]).id, "other")
    until(lambda: dict(client.redis.pubsub_numsub("modelyard:ended"))[b"modelyard:ended"])
    return listener

def subscribed(subscription):
    until(lambda: subscription.next() is None and subscription.is_confirmed)
    return subscription

def locks_of(one, seen):
    # All locks that are reached from an object through objects of ours and of redis-py.
    if id(one) in seen:
        return
    seen[id(one)] = one
    if isinstance(one, LOCKS):
        yield one
    elif isinstance(one, (list, tuple, set)):
        for each in list(one):
            yield from locks_of(each, seen)
    elif isinstance(one, dict):
        for each in list(one.values()):
            yield from locks_of(each, seen)
    elif type(one).__module__.partition(".")[0] in ("redis", "yard", "producer", "gateway"):
        yield from locks_of(vars(one) if hasattr(one, "__dict__") else {}, seen)

def hold(locks):
    held, over = threading.Event(), threading.Event()
    def run():
        taken = [lock for lock in locks if lock.acquire(timeout=1)]
        held.set()
        over.wait()
        for lock in taken:
            lock.release()
    threading.Thread(target=run, daemon=True).start()
    held.wait()
    return over

it = MAKE
over = hold([*locks_of(it, {}), *locks_of(client, {})])
pid = os.fork()
if not pid:
    signal.alarm(20)  # ends a child that hangs
    status = 1
    try:
        gc.collect()  # a destructor that takes a lock hangs, too
        USE
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
over.set()
assert client.submit("iris", instances=[ROW]).id  # the parent's connections are whole
assert client.wait(ended, 5).status == "finished"
sys.stderr.flush()
os._exit(0 if status == 0 else 3)
"""


@pytest.mark.parametrize(("make", "use"), OBJECTS.values(), ids=OBJECTS)
def test_an_object_made_before_a_fork_is_of_use_in_the_child(
    redis: Redis, redis_url: str, make: str, use: str
):
    publish(redis, "iris", "v1", active="v1")
    steps = textwrap.indent(use.replace("; ", "\n"), " " * 8).lstrip()
    ended = subprocess.run(
        [sys.executable, "-c", PARENT.replace("MAKE", make).replace("USE", steps), redis_url],
        cwd=ROOT,
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
