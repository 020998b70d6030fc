"""Jobs in a store: ids, states and their changes, checkpoints, events, records."""

import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest

from coordinator.errors import InputError, JobError, JobMissingError, StorageError
from coordinator.jobs import JobSpec, JobStore, Status, new_id
from coordinator.listing import list_jobs
from coordinator.runtime import TaskRecord
from coordinator.solvers.base import State
from coordinator.storage import MemoryStorage

SPEC = JobSpec("job-one", "data", {"loss": "logistic"}, "lbfgs", {"memory": 5}, version="0.1")


def gone() -> int:
    """The id of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_ids_sort_by_time_and_are_valid():
    ids = [new_id() for _ in range(50)]
    assert len(set(ids)) == 50
    assert [name[:13] for name in ids] == sorted(name[:13] for name in ids)
    store = JobStore(MemoryStorage())
    for name in ids:
        store.check_id(name)


def test_create_and_read(store):
    made = store.create(SPEC)
    assert made.created > 0
    assert store.spec("job-one") == made
    status = store.status("job-one")
    assert (status.state, status.final, status.iteration, status.pid) == ("queued", False, 0, None)
    assert store.ids() == ["job-one"]
    with pytest.raises(InputError, match="exists already"):
        store.create(SPEC)


@pytest.mark.parametrize("name", ["", "abc", "Job-one", "-job", "job_one", "job/one", "j" * 62, "job one", "ünicode"])
def test_bad_ids(name):
    store = JobStore(MemoryStorage())
    with pytest.raises(InputError, match="4 to 60 small letters") as caught:
        store.create(JobSpec(name, "data", {}, "lbfgs"))
    assert "\n" not in str(caught.value)
    assert store.storage.list("") == []


def test_missing_and_damaged_jobs(store):
    with pytest.raises(JobMissingError, match=r"no job 'job-one' in this store; there are none yet"):
        store.spec("job-one")
    store.create(SPEC)
    for look in (store.spec, store.status, store.cancel, store.clean, store.reopen, store.claim):
        with pytest.raises(JobMissingError, match="the newest is job-one"):
            look("job-two")
    with pytest.raises(JobMissingError):
        store.spec("no such/../job")
    store.storage.put("jobs/job-bad/spec.json", b"{")
    with pytest.raises(StorageError, match=r"job-bad.*damaged"):
        store.spec("job-bad")
    old = json.dumps({"id": "job-old", "format": 99, "version": "9.9"}).encode()
    store.storage.put("jobs/job-old/spec.json", old)
    with pytest.raises(JobError, match=r"job-old.*version '9\.9'"):
        store.spec("job-old")


def test_a_job_whose_maker_was_killed_half_way_is_queued(store):
    store.create(SPEC)
    store.storage.delete("jobs/job-one/status.json")
    assert store.status("job-one").state == "queued"
    assert store.claim("job-one")
    assert store.status("job-one").state == "running"


def test_update_only_from_the_states_named(store):
    store.create(SPEC)
    assert store.update("job-one", when=("running",), iteration=3).iteration == 0
    assert store.update("job-one", when=("queued",), iteration=3).iteration == 3
    status = store.update("job-one", objective=1.5)
    assert (status.iteration, status.objective) == (3, 1.5)
    assert store.status("job-one") == status


def test_updates_from_many_threads_are_all_kept(store):
    """Each update changes a status that nobody else changed in between."""
    store.create(SPEC)
    fields = ("iteration", "objective", "relative", "message")
    values = (7, 1.25, 0.5, "said")

    def change(name, value):
        for _ in range(20):
            store.update("job-one", **{name: value})

    threads = [threading.Thread(target=change, args=pair) for pair in zip(fields, values, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    status = store.status("job-one")
    assert tuple(getattr(status, name) for name in fields) == values


def test_one_of_many_claims_succeeds(store):
    store.create(SPEC)
    won = []
    ready = threading.Barrier(8)

    def claim():
        ready.wait()
        won.append(store.claim("job-one"))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    status = store.status("job-one")
    assert (status.state, status.pid) == ("running", os.getpid())
    assert status.started is not None


def test_a_job_whose_process_is_gone_reads_as_interrupted(store):
    store.create(SPEC)
    store.update("job-one", state="running", pid=gone())
    status = store.status("job-one")
    assert status.state == "interrupted"
    assert "resume" in status.message
    assert store.claim("job-one")
    assert store.status("job-one").pid == os.getpid()


def test_a_pid_that_names_another_process_now_is_not_the_job(store):
    store.create(SPEC)
    store.update("job-one", state="running", pid=os.getpid())
    assert store.status("job-one").state == "running"
    key = "jobs/job-one/status.json"
    data, version = store.storage.read(key)
    earlier = json.loads(data)
    earlier["born"] -= 1
    store.storage.swap(key, json.dumps(earlier).encode(), version)
    assert store.status("job-one").state == "interrupted"


def test_a_zombie_has_ended(store):
    store.create(SPEC)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    store.update("job-one", state="running", pid=child.pid)
    assert store.status("job-one").state == "running"
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet collected
    assert store.status("job-one").state == "interrupted"
    child.wait()


def test_cancel_of_a_job_that_waits_ends_it(store):
    store.create(SPEC)
    assert not store.cancelled("job-one")
    store.cancel("job-one")
    store.cancel("job-one")
    assert store.cancelled("job-one")
    assert store.status("job-one").state == "cancelled"
    assert not store.claim("job-one")


def test_cancel_of_a_job_that_runs_only_asks(store):
    store.create(SPEC)
    store.claim("job-one")
    store.cancel("job-one")
    assert store.cancelled("job-one")
    assert store.status("job-one").state == "running"


@pytest.mark.parametrize("state", ["cancelled", "failed"])
def test_reopen(store, state):
    store.create(SPEC)
    store.reopen("job-one")
    assert store.status("job-one").state == "queued"
    store.cancel("job-one")
    store.update("job-one", state=state, message="why")
    store.storage.put("jobs/job-one/result.json", b"{}")
    store.storage.put("jobs/job-one/result", b"")
    store.reopen("job-one")
    assert store.status("job-one").state == "interrupted"
    assert not store.cancelled("job-one")
    assert not store.storage.exists("jobs/job-one/result.json")
    assert not store.storage.exists("jobs/job-one/result")


def test_clean(store):
    store.create(SPEC)
    store.save_event("job-one", 0, {"iteration": 0})
    store.claim("job-one")
    with pytest.raises(JobError, match="running: cancel it first"):
        store.clean("job-one")
    store.update("job-one", state="done", pid=None)
    assert store.clean("job-one") == 3
    assert store.storage.list("jobs") == []


def state_at(iteration: int) -> State:
    return State(iteration, np.arange(3.0) + iteration, 0.1 * iteration, np.ones(3), False, 0.5, 2.0)


def test_the_newest_two_checkpoints_are_kept(store):
    store.create(SPEC)
    assert store.load_state("job-one", State) is None
    for i in (0, 1, 2, 10):
        store.save_state("job-one", i, state_at(i))
    keys = store.storage.list("jobs/job-one/states")
    assert [key[-6:] for key in keys] == ["000002", "000010"]
    found = store.load_state("job-one", State)
    assert found.iteration == 10
    np.testing.assert_array_equal(found.w, state_at(10).w)


def test_what_is_written_twice_stays_as_it_was(store):
    store.create(SPEC)
    store.save_state("job-one", 1, state_at(1))
    store.save_state("job-one", 1, state_at(9))
    assert store.load_state("job-one", State).iteration == 1
    store.save_event("job-one", 0, {"iteration": 0, "seconds": 1.0})
    store.save_event("job-one", 0, {"iteration": 0, "seconds": 2.0})
    assert [row["seconds"] for row in store.events("job-one")] == [1.0]
    record = TaskRecord("gradient#1", 0, 1, 0.0, 1.0, "0", "used")
    store.save_tasks("job-one", 0, [record])
    store.save_tasks("job-one", 0, [])
    assert store.tasks("job-one") == [record]


def test_events_in_order_and_since(store):
    store.create(SPEC)
    for i in (2, 0, 11, 1):
        store.save_event("job-one", i, {"iteration": i, "relative": np.float64(0.1), "count": np.int64(3)})
    assert [row["iteration"] for row in store.events("job-one")] == [0, 1, 2, 11]
    assert [row["iteration"] for row in store.events("job-one", since=1)] == [2, 11]
    assert store.events("job-one")[0] == {"iteration": 0, "relative": 0.1, "count": 3}
    with pytest.raises(TypeError, match="ndarray is not plain data"):
        store.save_event("job-one", 12, {"w": np.ones(2)})


def test_task_records_come_back_exactly(store):
    store.create(SPEC)
    rng = np.random.default_rng(0)
    fates = ("used", "spare", "ZeroDivisionError: by nought")
    records = [
        TaskRecord(f"kind#{i % 3}", i, 1 + i % 2, *map(float, rng.random(2)), str(i % 4), fates[i % 3])
        for i in range(30)
    ]
    store.save_tasks("job-one", 0, records[:20])
    store.save_tasks("job-one", 1, [])
    store.save_tasks("job-one", 2, records[20:])
    assert store.tasks("job-one") == records


def test_keys_are_those_of_the_module_text(store):
    store.create(SPEC)
    store.save_event("job-one", 12, {"iteration": 12})
    store.save_state("job-one", 12, state_at(12))
    store.save_tasks("job-one", 12, [])
    store.cancel("job-one")
    names = sorted(re.sub("^jobs/job-one/", "", key) for key in store.storage.list("jobs"))
    assert names == ["cancel", "events/000012.json", "spec.json", "states/000012", "status.json", "tasks/000012"]


def test_a_job_that_cannot_be_read_hides_no_other(store):
    def put(name, created):
        spec = asdict(replace(SPEC, id=name, created=created))
        store.storage.put(f"jobs/{name}/spec.json", json.dumps(spec).encode())

    put("job-two", 2.0)
    put("job-one", 3.0)
    put("job-odd", 1.0)
    store.storage.put("jobs/job-odd/status.json", b'{"state": "odd"}')
    store.storage.put("jobs/job-bad/spec.json", b"{")
    store.storage.put("jobs/job-old/spec.json", json.dumps({"format": 99, "version": "9.9"}).encode())
    bad, odd, old, two, one = list_jobs(store)
    assert (two.id, two.status.state, one.id) == ("job-two", "queued", "job-one")
    assert [seen.status.state for seen in (bad, odd, old)] == ["interrupted"] * 3
    assert "jobs/job-bad/spec.json is damaged" in bad.status.message
    assert "jobs/job-odd/status.json is damaged" in odd.status.message
    assert "'9.9'" in old.status.message
    assert [seen.id for seen in list_jobs(store, 2)] == ["job-two", "job-one"]
    looked = list_jobs(store, look=lambda job: Status("done", message=job))
    assert [seen.status.message for seen in looked[2:]] == ["job-odd", "job-two", "job-one"]
