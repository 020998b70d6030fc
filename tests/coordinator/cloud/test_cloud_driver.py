"""The driver on a Lambda in this process: hand-overs, deaths, limits; the bits are always those of one process."""

import json
import threading
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from coordinator.cloud import driver as cloud
from coordinator.cloud.calling import FALLS, Failure, Hop, wake
from coordinator.cloud.deployment import Deployment
from coordinator.cloud.driver import Clock, drive
from coordinator.cloud.invoke import Reply
from coordinator.data.importing import ImportOptions, import_data
from coordinator.driver import run_job
from coordinator.errors import InputError, StorageError
from coordinator.jobs import JobSpec, JobStore
from coordinator.profile import Profile
from coordinator.results import load_result
from coordinator.solvers import SOLVERS
from coordinator.storage import MemoryStorage

RATES = Profile(2, 2e10, 1e10, 5e8, 8e10, 4e10, 8e10, 6e9, 1e8, 1e10)
DEPLOYMENT = Deployment("b", "test", "driver", ("w", "w-large", "w-xlarge"), "0", lease=30.0)


class DiedError(BaseException):
    """The driver's process is killed."""


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(3)
    X = rng.standard_normal((600, 7)) * np.geomspace(1, 0.1, 7)
    y = (X @ rng.standard_normal(7) + 0.5 * rng.standard_normal(600) > 0.2).astype(float)
    return X, y


def fill(storage, rows, **fields):
    """Data and a job on it."""
    X, y = rows
    if fields.get("solver") == "interior-point":
        y = np.abs(y) + 1.0 + np.abs(X @ np.ones(X.shape[1]))
        fields["problem"] = {"kind": "linear-program", "c": list(X[:50].mean(axis=0))}
    import_data(storage, X, ImportOptions("two", block_bytes=4096), target=y)
    usual = {
        "data": "two",
        "problem": {"loss": "logistic", "l2": 1e-3},
        "solver": "oversketched-newton",
        "workers": 8,
        "profile": asdict(RATES),
    }
    return JobStore(storage).create(JobSpec("job-one", **(usual | fields)))


class Lambda:
    """Workers of `fake`, and drivers that are called one after another by `pump`."""

    def __init__(self, calls, storage):
        self.calls, self.storage = calls, storage
        self.pending, self.called, self.answers = [], [], []

    def __call__(self, function, payload, *, wait, timeout):
        if function != "driver":
            return self.calls(function, payload, wait=wait, timeout=timeout)
        assert not wait
        self.called.append(json.loads(payload))
        self.pending.append(self.called[-1])
        return Reply(202, b"")

    def run(self, event, clock=None, deployment=DEPLOYMENT, call=""):
        answer = drive(event, clock or Clock(lambda: 900.0), deployment, self.storage, self, call)
        self.answers.append(answer)
        return answer

    def pump(self, make_clock=lambda: Clock(lambda: 900.0), most=500):
        for _ in range(most):
            if not self.pending:
                return
            self.run(self.pending.pop(0), make_clock())
        raise AssertionError("drivers without end")


@pytest.fixture
def cloudlet(fake, counted):
    def make(faults=None, **options):
        return Lambda(fake(faults, **options), counted)

    return make


def alone(rows, **fields):
    """The result of the same job in one process."""
    storage = MemoryStorage()
    fill(storage, rows, **fields)
    return run_job(storage, "job-one")


def same(a, b):
    assert a.coef_.tobytes() == b.coef_.tobytes()
    assert np.asarray(a.intercept_).tobytes() == np.asarray(b.intercept_).tobytes()
    assert [row["objective"] for row in a.history] == [row["objective"] for row in b.history]
    assert (a.n_iter_, a.reason) == (b.n_iter_, b.reason)


def finished(world):
    store = JobStore(world.storage)
    status = store.status("job-one")
    assert (status.state, status.owner, status.expires) == ("done", "", None)
    return store, status, load_result(world.storage, "job-one")


@pytest.mark.parametrize("name", list(SOLVERS))
def test_every_solver_gives_the_bits_of_one_process(cloudlet, rows, name):
    fields = {"solver": name, "settings": {"tol": 1e-6, "max_iter": 12}}
    if name == "proximal-newton":
        fields["problem"] = {"loss": "logistic", "l1": 1e-3}
    world = cloudlet()
    fill(world.storage, rows, **fields)
    world.run({"job": "job-one"})
    store, status, result = finished(world)
    same(result, alone(rows, **fields))
    assert status.spent > sum(result.cost.values()) > 0
    assert world.storage.list("jobs/job-one/scratch") == []
    assert all(r.report is not None for r in store.tasks("job-one"))


@pytest.mark.parametrize(
    "settings",
    [
        {"layout": "tiles", "strategy": "sketch", "blocks": 4, "sketch_rows": 40},
        {"gradient": "replicated"},
        {"gradient": "coded"},
        {"strategy": "pcg"},
        {"strategy": "averaged"},
    ],
)
def test_protected_gradients_and_tiles_give_the_bits_of_one_process(cloudlet, rows, settings):
    fields = {"settings": {"tol": 1e-5, "max_iter": 6} | settings}
    world = cloudlet()
    fill(world.storage, rows, **fields)
    world.run({"job": "job-one"})
    store, _, result = finished(world)
    replay = {row["iteration"]: row["arrivals"] for row in store.events("job-one")}
    storage = MemoryStorage()
    fill(storage, rows, **fields)
    same(result, run_job(storage, "job-one", replay=replay))
    assert not any(
        key.startswith("data/") and ("coded" in key or "transposed" in key) for key in world.storage.list("")
    )
    assert world.storage.list("jobs/job-one/derived") == []


def test_balanced_classes_are_counted_by_workers(cloudlet, rows):
    fields = {"problem": {"loss": "logistic", "l2": 1e-3, "class_weight": "balanced"}}
    world = cloudlet()
    fill(world.storage, rows, **fields)
    world.run({"job": "job-one"})
    same(finished(world)[2], alone(rows, **fields))


def test_blocks_are_read_once_an_environment(cloudlet, rows):
    world = cloudlet()
    spec = fill(world.storage, rows, settings={"tol": 1e-8}, workers=1)
    world.run({"job": "job-one"})
    records = finished(world)[0].tasks("job-one")
    blocks = len(json.loads(world.storage.get(f"data/{spec.data}/manifest.json"))["keys"])
    assert sum(r.report.misses for r in records) == blocks
    assert sum(r.report.hits for r in records) > 5 * blocks
    assert sum(r.report.cold for r in records) == 1


# -- time limits --------------------------------------------------------------------------------------------------


def test_a_job_is_handed_over_between_steps(cloudlet, rows):
    fields = {"solver": "gradient-descent", "settings": {"tol": 1e-12, "max_iter": 25}}
    world = cloudlet()
    fill(world.storage, rows, **fields)
    world.pending.append({"job": "job-one"})
    store = JobStore(world.storage)

    def clock():
        began = store.status("job-one").iteration
        # after one step there is no time for another, but enough to hand over
        return Clock(lambda: 30.0 if store.status("job-one").iteration == began else 4.0)

    world.pump(clock)
    _, status, result = finished(world)
    same(result, alone(rows, **fields))
    assert status.hops >= 20
    assert [a["state"] for a in world.answers] == ["handed over"] * status.hops + ["done"]
    assert {hop.get("left_off") for hop in world.called} == {0}


def test_a_step_that_takes_longer_than_a_driver_has_ends(cloudlet, rows):
    fields = {"settings": {"tol": 1e-6}}
    world = cloudlet()
    fill(world.storage, rows, **fields)
    world.pending.append({"job": "job-one"})

    inner, computed = world.calls, []

    def count(function, payload, **options):
        if not world.storage.exists(json.loads(payload)["key"]):
            computed.append(1)
        return inner(function, payload, **options)

    def clock():
        before = len(computed)
        return Clock(lambda: 20.0 - 1.2 * (len(computed) - before))  # time for some sixteen tasks

    world.calls = count
    world.pump(clock)
    store, status, result = finished(world)
    same(result, alone(rows, **fields))
    assert status.hops > result.n_iter_
    assert max(hop["left_off"] for hop in world.called) > 0
    # what a driver left off with was not lost on the next
    assert any(r.report.writes == 0 and r.report.compute < 1e-3 for r in store.tasks("job-one"))


def test_a_step_that_never_ends_fails_in_one_line(cloudlet, rows):
    world = cloudlet()
    fill(world.storage, rows)
    world.run({"job": "job-one", "left_off": 31})
    status = JobStore(world.storage).status("job-one")
    assert status.state == "failed"
    assert status.message.startswith("a step did not end within 31 times the driver's 900 s; raise the timeout")


# -- deaths -------------------------------------------------------------------------------------------------------


def die(world, monkeypatch, at, where, call=""):
    """Kill the driver at an iteration: as it stores its events, its checkpoint, or then its status.

    Lambda says so of a `call` that is named; the lease of another runs out.
    """
    methods = {"events": "save_event", "state": "save_state", "after": "hold"}
    original = getattr(JobStore, methods[where])

    def deadly(self, *args, **options):
        iteration = options.get("iteration") if where == "after" else args[1]
        if iteration == at:
            monkeypatch.setattr(JobStore, methods[where], original)
            raise DiedError
        return original(self, *args, **options)

    monkeypatch.setattr(JobStore, methods[where], deadly)
    with pytest.raises(DiedError):
        world.run({"job": "job-one"}, call=call)
    if not call:
        expire(world)


def expire(world):
    """Let the dead driver's lease run out."""
    store = JobStore(world.storage)
    status = store.status("job-one")
    assert status.state == "running"
    store.hold("job-one", status.owner, expires=time.time() - 1)
    assert store.status("job-one").state == "interrupted"


@pytest.mark.parametrize("where", ["events", "state", "after"])
def test_killed_at_every_step(cloudlet, rows, monkeypatch, where):
    fields = {"settings": {"tol": 1e-8}}
    whole = alone(rows, **fields)
    world = cloudlet()
    fill(world.storage, rows, **fields)
    for at in range(whole.n_iter_ + 1):
        die(world, monkeypatch, at, where)
    world.run({"job": "job-one"})
    store, status, result = finished(world)
    same(result, whole)
    assert [row["iteration"] for row in store.events("job-one")] == list(range(whole.n_iter_ + 1))
    assert status.falls == 0


def test_killed_within_steps(cloudlet, rows, monkeypatch):
    # more steps than there are looks at the clock below, at least one of which falls in each
    fields = {"solver": "gradient-descent", "settings": {"tol": 1e-14, "max_iter": 60}}
    whole = alone(rows, **fields)
    world = cloudlet()
    fill(world.storage, rows, **fields)
    original = cloud._Stops.__call__
    for looks in (0, 2, 5, 9, 14, 20):
        count = iter(range(10**9))

        def killed(self, count=count, looks=looks):
            if next(count) == looks:
                raise DiedError
            return original(self)

        monkeypatch.setattr(cloud._Stops, "__call__", killed)
        with pytest.raises(DiedError):
            world.run({"job": "job-one"})
        expire(world)
    monkeypatch.undo()
    world.run({"job": "job-one"})
    same(finished(world)[2], whole)


def record(call, event=None, **response):
    """What Lambda tells the destination of a call of the driver that failed."""
    about = {"requestId": call, "condition": "RetriesExhausted", "approximateInvokeCount": 1}
    payload = {"job": "job-one"} if event is None else event
    return {"version": "1.0", "requestContext": about, "requestPayload": payload, "responsePayload": response}


def woken(world, call=None, **response):
    """The status after somebody looked, or after Lambda told of a call that failed."""
    failure = None if call is None else Failure.from_event(record(call, **response))
    return wake(JobStore(world.storage), DEPLOYMENT, world, "job-one", failure)


@pytest.mark.parametrize("told", [True, False])
def test_drivers_that_only_die_end_the_job(cloudlet, rows, monkeypatch, told):
    world = cloudlet()
    fill(world.storage, rows)
    for i in range(FALLS + 1):
        die(world, monkeypatch, 2, "state", f"call-{i}" if told else "")
        status = woken(world, *([f"call-{i}"] if told else []), errorType="Runtime.OutOfMemory", errorMessage="of\nit")
        assert len(world.pending) == min(i + 1, FALLS)
    assert status == JobStore(world.storage).status("job-one")
    assert (status.state, status.falls, status.owner, status.expires) == ("failed", FALLS + 1, "", None)
    last = " (the last: Runtime.OutOfMemory: of it)" if told else ""
    assert status.message.startswith(f"5 drivers in a row ended without a word after iteration 1{last}; see the log")
    assert woken(world, "call-9") == status


def test_drivers_that_die_before_they_have_the_lease_end_the_job(cloudlet, rows):
    world = cloudlet()
    fill(world.storage, rows)
    states = [woken(world, f"call-{i}", errorType="Runtime.ImportModuleError").state for i in range(FALLS + 1)]
    assert states == ["queued"] * FALLS + ["failed"]
    assert len(world.called) == FALLS


def test_a_call_that_failed_is_followed_at_once(cloudlet, rows, monkeypatch):
    """By another with the same event, whose lease need not run out; the bits are those of one process."""
    fields = {"settings": {"tol": 1e-8}}
    whole = alone(rows, **fields)
    world = cloudlet()
    fill(world.storage, rows, **fields)
    store = JobStore(world.storage)
    for i in range(whole.n_iter_ + 1):
        die(world, monkeypatch, i, "after", f"call-{i}")
        assert store.status("job-one").state == "running"
        assert woken(world, "another").state == "running"  # nothing is known of this one
        assert woken(world, f"call-{i}").state == "queued"
        assert store.status("job-one").falls == 1  # each got further
        assert woken(world).state == "queued"
    assert len(world.pending) == whole.n_iter_ + 1
    world.pump()
    _, status, result = finished(world)
    same(result, whole)
    assert status.falls == 0
    assert woken(world, "call-0") == status


def test_a_step_that_was_left_off_is_gone_on_with(cloudlet, rows):
    world = cloudlet()
    fill(world.storage, rows)
    failure = Failure.from_event(record("call-1", {"job": "job-one", "left_off": 3}))
    wake(JobStore(world.storage), DEPLOYMENT, world, "job-one", failure)
    assert world.called == [{"job": "job-one", "left_off": 3}]


def test_a_call_that_lambda_runs_again_takes_over(cloudlet, rows, monkeypatch):
    world = cloudlet()
    fill(world.storage, rows)
    die(world, monkeypatch, 2, "state", "call-1")
    assert world.run({"job": "job-one"}, call="call-2")["ran"] is False
    assert world.run({"job": "job-one"}, call="call-1")["state"] == "done"
    finished(world)


def test_what_a_dead_driver_has_spent_is_kept(cloudlet, rows, monkeypatch):
    world = cloudlet()
    fill(world.storage, rows)
    monkeypatch.setattr(Clock, "seconds", property(lambda self: 1000.0))
    die(world, monkeypatch, 0, "events", "call-1")
    assert JobStore(world.storage).status("job-one").spent > 1e-2


@pytest.mark.parametrize("event", [None, [], {}, {"requestContext": 1}, {"requestContext": {"requestId": "a"}}])
def test_events_that_tell_of_no_failure(event):
    assert Failure.from_event(event) is None


def test_a_failure_says_why():
    about = {"requestId": "a", "condition": "EventAgeExceeded"}
    event = {"requestContext": about, "requestPayload": {"job": "job-one"}}
    assert Failure.from_event(event) == Failure(Hop("job-one"), "a", "no free concurrency in time")
    other = {"requestContext": about | {"condition": "RetriesExhausted"}, "responsePayload": "x"}
    assert Failure.from_event(event | other).why == "RetriesExhausted"
    timeout = {"errorMessage": "2026 a Task timed out after 900.00 seconds"}
    assert Failure.from_event(event | {"responsePayload": timeout}).why == timeout["errorMessage"]
    with pytest.raises(InputError, match="not a call of the driver"):
        Failure.from_event(event | {"requestPayload": [1]})


def test_a_store_that_does_not_answer_is_lambda_s_to_say(cloudlet, rows, monkeypatch):
    world = cloudlet()
    fill(world.storage, rows)

    def broken(self, job):
        raise StorageError("no answer")

    monkeypatch.setattr(JobStore, "spec", broken)
    with pytest.raises(StorageError):
        world.run({"job": "job-one"})


def test_one_of_two_drivers_runs(cloudlet, rows):
    world = cloudlet()
    fill(world.storage, rows)
    store = JobStore(world.storage)
    assert store.lease("job-one", "another", 30.0)
    assert world.run({"job": "job-one"}) == {"status": 200, "job": "job-one", "state": "running", "ran": False}


def test_a_driver_that_was_thought_dead_stops(cloudlet, rows, monkeypatch):
    fields = {"settings": {"tol": 1e-8}}
    world = cloudlet()
    fill(world.storage, rows, **fields)
    store = JobStore(world.storage)
    original = JobStore.save_state

    def slow(self, job, iteration, state, keep=2):
        if iteration == 2:
            monkeypatch.setattr(JobStore, "save_state", original)
            expire(world)
            world.run({"job": "job-one"})  # another driver takes over, and ends the job
            assert store.status("job-one").state == "done"
        return original(self, job, iteration, state, keep)

    monkeypatch.setattr(JobStore, "save_state", slow)
    answer = world.run({"job": "job-one"})
    assert answer["state"] == "lost"
    same(finished(world)[2], alone(rows, **fields))


def test_an_ended_job_is_not_run_again(cloudlet, rows):
    world = cloudlet()
    fill(world.storage, rows)
    world.run({"job": "job-one"})
    assert world.run({"job": "job-one"})["ran"] is False


# -- stops --------------------------------------------------------------------------------------------------------

ENDLESS = {"solver": "gradient-descent", "settings": {"tol": 1e-15, "max_iter": 10**6}}


def test_it_stops_at_what_it_may_cost(cloudlet, rows):
    world = cloudlet()
    fill(world.storage, rows, max_cost=2e-4, **ENDLESS)
    world.run({"job": "job-one"})
    _, status, result = finished(world)
    assert result.reason.startswith("stopped at max_cost, $0.0002, having spent $0.0002")
    assert result.reason.endswith("this is the best iterate so far")
    assert not result.converged
    assert result.n_iter_ > 0
    assert 2e-4 <= status.spent < 3e-4


def test_it_stops_at_its_deadline(cloudlet, rows):
    world = cloudlet()
    fill(world.storage, rows, deadline=time.time() + 0.8, **ENDLESS)
    world.run({"job": "job-one"})
    assert finished(world)[2].reason == "stopped at its deadline; this is the best iterate so far"


def test_it_stops_when_it_is_cancelled(cloudlet, rows):
    world = cloudlet()
    fill(world.storage, rows, **ENDLESS)
    threading.Timer(0.5, JobStore(world.storage).cancel, ["job-one"]).start()
    began = time.monotonic()
    world.run({"job": "job-one"})
    assert time.monotonic() - began < 5
    assert JobStore(world.storage).status("job-one").state == "cancelled"
    assert load_result(world.storage, "job-one").n_iter_ > 0


def test_cancelled_before_its_first_iterate(cloudlet, rows):
    world = cloudlet()
    fill(world.storage, rows)
    world.storage.put("jobs/job-one/cancel", b"")
    world.run({"job": "job-one"})
    status = JobStore(world.storage).status("job-one")
    assert (status.state, status.message) == ("cancelled", "cancelled before its first iterate")


def test_what_goes_wrong_is_in_the_status(cloudlet, rows):
    world = cloudlet({0: ["404"] * 100})
    fill(world.storage, rows)
    world.run({"job": "job-one"})
    status = JobStore(world.storage).status("job-one")
    assert status.state == "failed"
    assert status.message == "cannot call w: Function not found: deploy first, or check OVERCAST_WORKERS"


def test_faults_of_workers_change_no_bit(cloudlet, rows):
    faults = ["429", "crash", "ok", "lost", "500", "ok", "timeout", "junk", "ok", "ok", "oom"] * 2 + ["ok"] * 5
    world = cloudlet({0: faults})
    fill(world.storage, rows, settings={"tol": 1e-8})
    world.run({"job": "job-one"})
    store, _, result = finished(world)
    same(result, alone(rows, settings={"tol": 1e-8}))
    assert len([r for r in store.tasks("job-one") if r.fate != "used"]) >= 8


@pytest.mark.parametrize(
    "event",
    [None, 1, {}, {"job": 1}, {"job": "a", "left_off": -1}, {"job": "a", "left_off": True}, {"job": "a", "x": 1}],
)
def test_what_is_no_call_of_the_driver(cloudlet, event):
    with pytest.raises(InputError, match="not a call of the driver"):
        Hop.from_event(event)
    answer = cloudlet().run(event)
    assert (answer["status"], answer["error"]["type"]) == (400, "InputError")


def test_no_such_job(cloudlet):
    answer = cloudlet().run({"job": "absent"})
    assert (answer["status"], answer["error"]["type"]) == (404, "JobMissingError")


def test_a_deployment_says_what_is_missing():
    with pytest.raises(InputError, match="OVERCAST_STAGE is not set"):
        Deployment.from_environment({"OVERCAST_BUCKET": "b"})
    found = Deployment.from_environment(
        {"OVERCAST_BUCKET": "b", "OVERCAST_STAGE": "s", "OVERCAST_WORKERS": "a,b", "OVERCAST_VERSION": "1"}
    )
    assert found == replace(found, workers=("a", "b"), allow_code=False, version="1")
