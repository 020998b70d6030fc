"""Mapping functions over items, on threads and on workers as on Lambda."""

import hashlib
import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from coordinator import mapping, values
from coordinator.errors import CodeRefusedError, InputError, ItemError
from coordinator.executors.local import LocalExecutor
from coordinator.jobs import JobSpec
from coordinator.mapping import create_map, load_outputs, run_map
from coordinator.phases import Speculate
from coordinator.runtime import Runtime
from coordinator.storage import MemoryStorage
from coordinator.tasks import Worker


def make(store, fn, items, *, pickled=False, attempts=3):
    return create_map(store, JobSpec("map-one", "", {}, "map"), fn, items, pickled=pickled, attempts=attempts)


def run(store, spec, *, allow_code=True, workers=2, **options):
    with LocalExecutor(Worker(store.storage, MemoryStorage(), allow_code=allow_code), workers) as executor:
        ctx = Runtime(executor, MemoryStorage(), **options)
        run_map(store, spec, ctx, lambda **changes: store.update(spec.id, **changes))
    return ctx


def mapped(store, fn, items, *, trust=False, **options):
    spec = make(store, fn, items, pickled=trust)
    run(store, spec, **options)
    return load_outputs(store.storage, spec, trust=trust)


def test_results_come_in_the_order_of_the_items(store):
    spec = make(store, lambda x: (x, x * x), range(10))
    done = []
    with LocalExecutor(Worker(store.storage, allow_code=True), 1) as threads:

        class Backwards:
            def submit(self, launches):
                threads.submit(list(launches)[::-1])

            def poll(self, timeout):
                found = threads.poll(timeout)
                done.extend(outcome.launch.index for outcome in found)
                return found

            cancel = threads.cancel

        run_map(store, spec, Runtime(Backwards(), MemoryStorage()), lambda **changes: store.update(spec.id, **changes))
    assert done == list(range(10))[::-1]
    assert load_outputs(store.storage, spec) == [(x, x * x) for x in range(10)]
    assert store.status("map-one").state == "done"


def test_arrays_and_closures_travel(store):
    shift = np.array([1.0, 2.0])
    found = mapped(store, lambda a: {"sum": a + shift, "n": len(a)}, [np.zeros(2), np.ones(2)])
    assert [f["n"] for f in found] == [2, 2]
    assert np.array_equal(found[1]["sum"], [2.0, 3.0])


def test_items_that_are_no_plain_data_travel_too(store):
    assert mapped(store, sorted, [{3, 1}, frozenset({2})]) == [[1, 3], [2]]


def test_no_items_no_results(store):
    assert mapped(store, str, []) == []


def test_items_may_be_large_and_many(store, monkeypatch):
    monkeypatch.setattr(mapping, "WAVE", 5)
    monkeypatch.setattr(mapping, "SHARD", 1000)
    items = [np.full(1 + 50 * (i % 4), i) for i in range(23)]
    assert mapped(store, lambda a: int(a.sum()), items) == [int(a.sum()) for a in items]
    assert len(store.storage.list("jobs/map-one/items")) > 5
    assert [row["done"] for row in store.events("map-one")] == [5, 10, 15, 20, 23]
    assert len(store.tasks("map-one")) == 23


def failing(n):
    """Fails on item 3 the first n times."""
    import itertools

    count = itertools.count()

    def call(x):
        if x == 3 and next(count) < n:
            raise ValueError("no threes")
        return -x

    return call


def test_failures_are_tried_again(store):
    spec = make(store, failing(2), range(5))
    ctx = run(store, spec, workers=1)
    assert load_outputs(store.storage, spec) == [0, -1, -2, -3, -4]
    fates = [(r.index, r.attempt, r.fate) for r in store.tasks(spec.id) if r.index == 3]
    assert fates[0] == (3, 1, "map.call: FunctionError: ValueError: no threes")
    assert fates[2] == (3, 3, "used")
    assert ctx.records == []


def test_an_exception_names_its_item(store):
    spec = make(store, failing(99), range(6), attempts=2)
    with pytest.raises(ItemError, match=r"^item 3: ValueError: no threes$") as caught:
        run(store, spec)
    assert caught.value.index == 3


def test_items_are_numbered_through_all_waves(store, monkeypatch):
    monkeypatch.setattr(mapping, "WAVE", 2)
    spec = make(store, failing(99), range(6), attempts=1)
    with pytest.raises(ItemError, match=r"^item 3: ") as caught:
        run(store, spec)
    assert caught.value.index == 3
    assert store.storage.exists("jobs/map-one/outputs/000000")


def test_a_job_goes_on_where_it_was(store, monkeypatch):
    monkeypatch.setattr(mapping, "WAVE", 2)
    spec = make(store, lambda x: x + 1, range(5))
    run(store, spec, stopped=lambda: "cancelled" if store.events(spec.id) else None)
    assert store.status(spec.id).state == "cancelled"
    assert store.status(spec.id).message == "cancelled; results of 2 of 5 items are kept"
    run(store, spec)
    assert load_outputs(store.storage, spec) == [1, 2, 3, 4, 5]
    assert sorted((r.phase, r.index) for r in store.tasks(spec.id)) == [(f"map#{i // 2}", i % 2) for i in range(5)]


def test_stragglers_get_a_second_copy(store):
    spec = make(store, lambda x: x, range(8))
    with LocalExecutor(Worker(store.storage, allow_code=True), 2) as threads:

        class Lossy:
            """Loses the first attempt at item 2 without a word."""

            def submit(self, launches):
                threads.submit([x for x in launches if (x.index, x.attempt) != (2, 1)])

            poll, cancel = threads.poll, threads.cancel

        ctx = Runtime(Lossy(), MemoryStorage(), policy=Speculate(least=0.0))
        run_map(store, spec, ctx, lambda **changes: None)
    assert load_outputs(store.storage, spec) == list(range(8))
    assert [r.attempt for r in store.tasks(spec.id) if r.index == 2] == [2]


def test_code_runs_only_where_it_is_allowed(store, monkeypatch):
    spec = make(store, lambda x: x, [1])
    with pytest.raises(CodeRefusedError, match=r"code is not allowed here: set OVERCAST_ALLOW_CODE=1"):
        run(store, spec, allow_code=False)
    monkeypatch.setenv("OVERCAST_ALLOW_CODE", "0")
    with pytest.raises(CodeRefusedError):
        run(store, spec, allow_code=False)
    monkeypatch.setenv("OVERCAST_ALLOW_CODE", "1")
    run(store, spec, allow_code=False)
    assert load_outputs(store.storage, spec) == [1]


def replace_object(storage, key, data):
    storage.delete(key)
    storage.put(key, data)


@pytest.mark.parametrize("part", ["code", "items/index.json", "items/000000"])
def test_nothing_is_unpickled_whose_hash_is_another(store, part, monkeypatch):
    spec = make(store, lambda x: x, [1])
    unpickled = []
    monkeypatch.setattr(values, "unpickle", lambda data, where: unpickled.append(where) or (lambda x: x))
    replace_object(store.storage, f"jobs/map-one/{part}", b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(CodeRefusedError, match=rf"jobs/map-one/{part} has SHA-256 \w+\.\.\., the job's spec says"):
        run(store, spec)
    assert unpickled == (["the function of job map-one"] if part == "items/000000" else [])


def test_another_python_is_refused(store):
    spec = make(store, lambda x: x, [1])
    other = replace(spec, problem={**spec.problem, "python": "3.1"})
    replace_object(store.storage, "jobs/map-one/spec.json", json.dumps(vars(other)).encode())
    with pytest.raises(CodeRefusedError, match=r"made by Python 3.1, and this worker is Python 3"):
        run(store, spec)


def test_the_spec_has_the_hash_of_the_code(store):
    spec = make(store, lambda x: x, [1])
    assert spec.problem["code"] == hashlib.sha256(store.storage.get("jobs/map-one/code")).hexdigest()


def test_other_results_are_refused_unless_they_were_asked_for(store):
    with pytest.raises(ItemError, match=r"item 0: the result cannot travel: a set is no plain data.*trust_results"):
        mapped(store, lambda x: {x}, [1])


def test_pickled_results_are_read_only_by_those_who_trust_them(store):
    assert mapped(store, lambda x: {x}, [1, 2], trust=True) == [{1}, {2}]
    with pytest.raises(InputError, match=r"result of item 0 is pickled.*trust_results=True"):
        load_outputs(store.storage, store.spec("map-one"))


def test_what_cannot_be_mapped_leaves_nothing(store):
    lock = threading.Lock()
    with pytest.raises(InputError, match="cannot pickle a function"):
        make(store, lambda x: lock, [1])
    with pytest.raises(InputError, match="cannot pickle a lock"):
        make(store, str, [1, lock])
    with pytest.raises(InputError, match="takes a function"):
        make(store, 3, [1])
    with pytest.raises(InputError, match="retries"):
        make(store, str, [1], attempts=0)
    assert store.storage.list("jobs") == []
    make(store, str, [1])
    with pytest.raises(InputError, match="exists already"):
        make(store, str, [2])
    assert store.spec("map-one").problem["n"] == 1


def test_a_job_that_is_no_map_is_refused(store):
    store.create(JobSpec("solve-one", "data", {"loss": "logistic"}, "newton"))
    spec = replace(make(store, str, [1]), id="solve-one")
    with pytest.raises(ItemError, match="'solve-one' is no map"):
        run(store, spec)


def test_a_new_job_of_an_old_name_runs_its_own_function(store):
    worker = Worker(store.storage, allow_code=True)
    for fn, items in ((lambda x: x + 1, [1]), (lambda x: x + 2, [1]), (lambda x: x + 2, [5])):
        spec = make(store, fn, items)
        with LocalExecutor(worker, 1) as executor:
            run_map(store, spec, Runtime(executor, MemoryStorage()), lambda **changes: None)
        assert load_outputs(store.storage, spec) == [fn(items[0])]
        store.clean(spec.id)
