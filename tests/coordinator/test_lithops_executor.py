"""The Lithops executor on a pool in this process, whose faults are tables."""

import json
import pickle
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from coordinator.cloud import batch, wire
from coordinator.cloud.lithops import completed, is_local, last_words
from coordinator.errors import CodeRefusedError, InputError, ItemError, PhaseError
from coordinator.executors.lithops import LithopsExecutor
from coordinator.jobs import JobSpec, JobStore
from coordinator.mapping import create_map, load_outputs, run_map
from coordinator.phases import Launch, Phase, Speculate
from coordinator.runtime import Runtime
from coordinator.storage import FileStorage, MemoryStorage
from coordinator.tasks import Task, kernel
from sketches import Quorum, Uncoded

ROOT = "jobs/j/scratch"


@kernel("test.lithops")
def number(work, *, i, error=None):
    if error == "fatal":
        raise InputError("no such column")
    if error:
        raise ValueError(error)
    return (np.array([float(i)]), np.asfortranarray(np.arange(6.0).reshape(2, 3)) * i)


class FakePool:
    """Runs calls here and now. `faults`: what happens to the first, second, ... call.

    "ok"; "never": it does not begin; "silent": it begins its first task and dies, and nobody hears of it; "dies": so it
    does, and the pool says it ended; "later": it runs when `release` is called.
    """

    def __init__(self, faults=(), refusals=()):
        self.faults, self.refusals = list(faults), list(refusals)
        self.requests, self.dropped, self.waiting = [], [], []
        self.closed = False
        self.threads = set()

    def start(self, requests):
        self.threads.add(threading.get_ident())
        if self.refusals:
            raise self.refusals.pop(0)
        return [self._call(request) for request in requests]

    def _call(self, text):
        self.requests.append(text)
        fault = self.faults.pop(0) if self.faults else "ok"
        if fault == "ok":
            batch.call(text)
        elif fault in {"silent", "dies"}:
            raw = json.loads(text)
            first = raw["tasks"][0]
            FileStorage(raw["storage"]["root"]).put(wire.start_key(first["key"], first["attempt"]), b"")
        elif fault == "later":
            self.waiting.append(text)
        return fault

    def release(self):
        for text in self.waiting:
            batch.call(text)

    def ended(self, handle):
        return {"ok": "all went well", "dies": "killed with SIGKILL"}.get(handle)

    def drop(self, handles):
        self.dropped += handles

    def close(self):
        self.closed = True


@pytest.fixture
def storage(tmp_path):
    return FileStorage(tmp_path / "store")


def phase(n, code=None, name="toy#1", **params):
    tasks = [Task("test.lithops", f"{ROOT}/{name[:-2]}/{i:03d}", params={"i": i, **params}) for i in range(n)]
    return Phase(name, tasks, code or Uncoded(n))


def run(pool, storage, *phases, options=None, **executor):
    with LithopsExecutor(pool, storage, ROOT, **({"workers": 4, "soon": 0.001, "pause": 0.001} | executor)) as lithops:
        ctx = Runtime(lithops, storage, prefix=ROOT, **(options or {}))
        return ctx, ctx.run(*phases)


def numbers(results):
    return [float(a[0]) for a, _ in results]


def fates(ctx):
    return {(r.index, r.attempt): r.fate for r in ctx.records}


def test_a_phase_goes_out_in_as_many_calls_as_there_are_workers(storage):
    pool = FakePool()
    ctx, [found] = run(pool, storage, phase(10))
    assert numbers(found) == list(range(10))
    assert all(b.flags.f_contiguous and b[1, 2] == 5.0 * i for i, (_, b) in enumerate(found))
    assert sorted(len(json.loads(r)["tasks"]) for r in pool.requests) == [2, 2, 3, 3]
    assert all(r.report.seconds > 0 and r.report.memory > 0 for r in ctx.records)
    assert pool.closed
    assert threading.get_ident() not in pool.threads  # submit returns at once, however long Lithops takes


def test_a_request_holds_no_credentials_and_no_data(storage):
    pool = FakePool()
    run(pool, storage, phase(1))
    raw = json.loads(pool.requests[0])
    assert raw.keys() == {"storage", "off", "tasks"}
    assert raw["storage"] == {"kind": "file", "root": str(storage.root)}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("never", "a Lithops worker did not begin within 0 s"),
        ("silent", "a Lithops worker began and was not heard of for 0 s"),
        ("dies", "killed with SIGKILL"),
    ],
)
def test_what_dies_is_an_erasure_and_hangs_nothing(storage, fault, said):
    pool = FakePool([fault])
    ctx, [found] = run(pool, storage, phase(6), workers=2, patience=0.05, longest=0.05)
    assert numbers(found) == list(range(6))
    first = {(r.index, r.attempt): r.fate for r in ctx.records if r.attempt == 1}
    assert [first[i, 1] for i in (0, 2, 4)] == [said] * 3
    assert [first[i, 1] for i in (1, 3, 5)] == ["used"] * 3


def test_a_call_that_always_dies_ends_the_phase(storage):
    with pytest.raises(PhaseError, match=r"lost 1 of 1 tasks: killed with SIGKILL"):
        run(FakePool(["dies"] * 9), storage, phase(1))


def test_results_that_came_before_a_death_count(storage):
    class Half(FakePool):
        def _call(self, text):
            raw = json.loads(text)
            self.requests.append(text)
            if len(self.requests) == 1:
                batch.call(json.dumps(raw | {"tasks": raw["tasks"][:2]}))
                return "dies"
            batch.call(text)
            return "ok"

    pool = Half()
    ctx, [found] = run(pool, storage, phase(4), workers=1)
    assert numbers(found) == [0, 1, 2, 3]
    assert sorted(fates(ctx)) == [(0, 1), (1, 1), (2, 1), (2, 2), (3, 1), (3, 2)]


def test_errors_of_kernels_are_told_and_tried_again(storage):
    with pytest.raises(PhaseError, match=r"test.lithops: ValueError: odd number"):
        run(FakePool(), storage, phase(1, error="odd number"))
    pool = FakePool()
    with pytest.raises(PhaseError, match=r"^no such column$"):
        run(pool, storage, phase(1, name="fatal#1", error="fatal"))
    assert len(pool.requests) == 1


def test_refused_invocations_are_made_again(storage):
    pool = FakePool(refusals=[Exception("429 Too Many Requests")] * 3)
    ctx, [found] = run(pool, storage, phase(3))
    assert numbers(found) == [0, 1, 2]
    assert {r.attempt for r in ctx.records} == {1}


def test_a_pool_that_only_refuses_ends_the_phase(storage):
    pool = FakePool(refusals=[Exception("429 Too Many\nRequests")] * 99)
    with pytest.raises(PhaseError, match=r"Lithops could not call its workers: Exception: 429 Too Many Requests"):
        run(pool, storage, phase(2), pause=1e-6)


def test_a_configuration_that_cannot_be_used_is_said_at_once(storage):
    pool = FakePool(refusals=[InputError("Lithops cannot start with its configuration: no key")])
    with pytest.raises(PhaseError, match=r"^Lithops cannot start"):
        run(pool, storage, phase(2))


def test_leftover_calls_are_told_that_nobody_waits(storage):
    pool = FakePool(["ok", "later"])
    with LithopsExecutor(pool, storage, ROOT, workers=2, soon=0.001) as executor:
        ctx = Runtime(executor, storage, prefix=ROOT)
        ctx.run(phase(2, Quorum(1, 2)))
    assert pool.dropped == ["later"]
    pool.release()
    done = [key for key in storage.list(ROOT) if "began" in key]
    assert len(done) == 1  # the late call found that it was not wanted, and ran nothing


def test_a_pool_that_cannot_drop_calls_goes_on(storage):
    class Stubborn(FakePool):
        def start(self, requests):
            if not self.threads:
                executor.cancel()  # while the call is made
            return super().start(requests)

        def drop(self, handles):
            super().drop(handles)
            raise RuntimeError("cannot be dropped")

    pool = Stubborn()
    with LithopsExecutor(pool, storage, ROOT, workers=2, soon=0.001) as executor:
        executor.submit([Launch("toy#1", 0, 1, phase(1).tasks[0])])
        while not pool.dropped:
            time.sleep(0.001)
        [found] = Runtime(executor, storage, prefix=ROOT).run(phase(3))
    assert numbers(found) == [0, 1, 2]


def test_stragglers_get_a_second_copy(storage):
    pool = FakePool(["ok", "ok", "ok", "never"])
    _, [found] = run(pool, storage, phase(4), options={"policy": Speculate(least=0.0)})
    assert numbers(found) == [0, 1, 2, 3]
    assert [json.loads(r)["tasks"][0]["attempt"] for r in pool.requests] == [1, 1, 1, 1, 2]


def test_results_of_a_run_before_are_taken(storage):
    run(FakePool(), storage, phase(4))
    pool = FakePool(["never"] * 4)
    _, [found] = run(pool, storage, phase(4))
    assert numbers(found) == [0, 1, 2, 3]


def test_damaged_results_are_erasures(storage):
    task = phase(1).tasks[0]
    storage.put(wire.stored_key(task), b"damaged")
    with pytest.raises(PhaseError, match="no array header"):
        run(FakePool(), storage, phase(1))


def test_stores_that_workers_cannot_reach_are_refused():
    with pytest.raises(InputError, match="a store on disk, or in a bucket"):
        LithopsExecutor(FakePool(), MemoryStorage(), ROOT)


def test_requests_that_are_none_are_refused(storage):
    with pytest.raises(InputError, match="not a request"):
        batch.call(json.dumps({"storage": batch.describe(storage), "off": "x", "tasks": [{}]}))


def test_workers_on_s3(s3, storage):
    task = phase(1).tasks[0]
    asked = wire.Request(task, wire.stored_key(task), "always", 1, marked=True)
    batch.call(batch.request(batch.describe(s3), f"{ROOT}/off/1", [asked]))
    [result] = [key for key in s3.list(ROOT) if "began" not in key]
    assert wire.unpack(s3.get(result))[0] == [0.0]


# -- maps -------------------------------------------------------------------------------------------------------------


def mapped(storage, fn, items, pool):
    spec = create_map(JobStore(storage), JobSpec("map-one", "", {}, "map"), fn, items, pickled=False, attempts=2)
    with LithopsExecutor(pool, storage, "jobs/map-one/scratch", workers=3, soon=0.001) as executor:
        run_map(JobStore(storage), spec, Runtime(executor, storage), lambda **_: None, root="jobs/map-one/scratch/")
    return load_outputs(storage, spec)


def test_functions_are_mapped_where_code_is_allowed(storage, monkeypatch):
    batch._workers.clear()
    monkeypatch.setenv("OVERCAST_ALLOW_CODE", "1")
    assert mapped(storage, lambda x: x * 2, range(7), FakePool(["ok", "dies"])) == [0, 2, 4, 6, 8, 10, 12]


def test_exceptions_name_their_item(storage, monkeypatch):
    batch._workers.clear()
    monkeypatch.setenv("OVERCAST_ALLOW_CODE", "1")
    with pytest.raises(ItemError, match=r"^item 2: ZeroDivisionError"):
        mapped(storage, lambda x: 1 / (x - 2), range(4), FakePool())


def test_functions_are_refused_elsewhere(storage, monkeypatch):
    batch._workers.clear()
    monkeypatch.delenv("OVERCAST_ALLOW_CODE", raising=False)
    with pytest.raises(CodeRefusedError, match="OVERCAST_ALLOW_CODE=1"):
        mapped(storage, str, range(4), FakePool())


# -- Lithops' side ----------------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def test_last_words_are_read_without_unpickling():
    def words(value):
        return last_words({"exc_info": str(pickle.dumps(value))})

    assert words((ImportError, ImportError("No module named 'overcast'"), None)).startswith("ImportError: ")
    assert "No module named 'overcast'" in words((ImportError, ImportError("No module named 'overcast'"), None))
    assert words(Bomb()).endswith("it was unpickled")
    assert last_words({"exc_info": "b'no pickle'"}) == "it gave no reason"
    assert last_words({}) == last_words(None) == last_words({"exc_info": "__import__('os')"}) == "it gave no reason"


def test_localhost_gets_this_interpreter_and_the_quick_version():
    import sys

    usual = completed({"lithops": {"backend": "localhost"}})
    assert usual["localhost"] == {"version": 1, "runtime": sys.executable}
    assert completed({"lithops": {"backend": "localhost"}, "localhost": {"version": 2}})["localhost"]["version"] == 2
    remote = {"lithops": {"backend": "aws_lambda", "storage": "aws_s3"}, "aws": {"region": "eu-west-1"}}
    assert completed(remote) == remote
    assert not is_local(remote)
    assert not is_local({"lithops": {"mode": "serverless"}})
    assert all(is_local(config) for config in ({}, {"lithops": None}, {"lithops": {"mode": "localhost"}}))


def test_ended_calls(monkeypatch):
    from coordinator.cloud.lithops import LithopsPool

    monkeypatch.setenv("LITHOPS_CONFIG", '{"lithops": {"backend": "localhost", "storage": "localhost"}}')
    pool = LithopsPool()
    flags = {"ready": False, "success": False, "done": False}
    assert pool.ended(SimpleNamespace(**flags)) is None
    assert "ended without a result: it gave no reason" in pool.ended(SimpleNamespace(**flags | {"ready": True}))
    monkeypatch.setenv("LITHOPS_CONFIG", "{")
    with pytest.raises(InputError, match="configuration cannot be read"):
        LithopsPool()
