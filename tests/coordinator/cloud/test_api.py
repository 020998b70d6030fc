"""The interface: what is asked is answered, and nothing malformed does anything."""

import base64
import json
import time
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.cloud import api
from coordinator.cloud.api import Api
from coordinator.cloud.deployment import Deployment
from coordinator.cloud.driver import Clock, drive
from coordinator.cloud.invoke import Reply
from coordinator.cloud.worker import Environment
from coordinator.data.importing import ImportOptions, import_data
from coordinator.errors import StorageError
from coordinator.jobs import JobStore

DEPLOYMENT = Deployment("bucket", "test", "driver", ("w", "w-large"), "1.4.2")
SPEC = {"data": "two", "problem": {"loss": "logistic", "l2": 1e-3}, "solver": "newton", "id": "job-one"}


class World:
    """An api whose drivers run when told to."""

    def __init__(self, storage, calls):
        self.storage, self.calls = storage, calls
        self.pending, self.broken = [], False
        self.api = Api(DEPLOYMENT, storage, self)

    def __call__(self, function, payload, *, wait, timeout):
        if function != "driver":
            return self.calls(function, payload, wait=wait, timeout=timeout)
        if self.broken:
            return Reply(404, b"no such function")
        self.pending.append(json.loads(payload))
        return Reply(202, b"")

    def pump(self):
        while self.pending:
            drive(self.pending.pop(0), Clock(lambda: 900.0), DEPLOYMENT, self.storage, self)

    def ask(self, method, path, body=None, query=None, headers=None):
        event = {
            "version": "2.0",
            "rawPath": path,
            "requestContext": {"http": {"method": method}},
            "headers": headers or {},
            **({"queryStringParameters": query} if query else {}),
            **({"body": json.dumps(body)} if body is not None else {}),
        }
        answer = self.api.answer(event)
        return answer["statusCode"], json.loads(answer["body"])


def filled(storage):
    rng = np.random.default_rng(5)
    X = rng.standard_normal((300, 4))
    y = (X @ rng.standard_normal(4) + rng.standard_normal(300) > 0).astype(float)
    import_data(storage, X, ImportOptions("two", block_bytes=4096), target=y)
    return storage


@pytest.fixture
def world(counted, fake):
    return World(filled(counted), fake())


def test_a_job_from_beginning_to_end(world):
    status, found = world.ask("POST", "/jobs", {"spec": SPEC})
    assert (status, found["id"], found["status"]["state"]) == (200, "job-one", "queued")
    assert world.pending == [{"job": "job-one", "left_off": 0}]
    world.pump()
    status, found = world.ask("GET", "/jobs/job-one")
    assert (status, found["status"]["state"]) == (200, "done")
    assert found["spec"]["version"] == "1.4.2"
    assert found["spec"]["profile"]["workers"] == 64
    _, found = world.ask("GET", "/jobs/job-one/events")
    rows = [row["iteration"] for row in found["events"]]
    assert rows == list(range(len(rows)))
    assert world.ask("GET", "/jobs/job-one/events", query={"since": "1"})[1]["events"][0]["iteration"] == 2
    _, found = world.ask("GET", "/jobs/job-one/result")
    assert found["plain"]["converged"]
    assert base64.b64decode(found["arrays"])
    _, found = world.ask("GET", "/jobs")
    assert [job["id"] for job in found["jobs"]] == ["job-one"]
    _, found = world.ask("DELETE", "/jobs/job-one")
    assert found["deleted"] > 3
    assert world.storage.list("jobs") == []
    assert world.ask("GET", "/jobs/job-one")[0] == 404


def test_versions(world):
    assert world.ask("GET", "/versions")[1] | {"region": ""} == {
        "version": "1.4.2",
        "stage": "test",
        "bucket": "bucket",
        "region": "",
    }


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ("1.5.0", "client 1.5.0 is newer than deployment 1.4.2: deploy again from that version"),
        ("1.3.9", "client 1.3.9 is older than deployment 1.4.2: pip install 'overcast==1.4.2'"),
        ("1.4.7", None),
    ],
)
def test_other_versions_are_told_what_to_upgrade(world, client, said):
    status, found = world.ask("GET", "/versions", headers={"X-Overcast-Version": client})
    if said is None:
        assert status == 200
    else:
        assert (status, found["error"]) == (409, {"type": "VersionError", "message": said})


def test_a_quote_spends_nothing(world):
    before = world.storage.list("")
    status, found = world.ask("POST", "/quote", {"spec": SPEC})
    assert status == 200
    assert {phase["name"] for phase in found["phases"]} == {"gradient", "hessian"}
    assert 0 < sum(phase["dollars"] for phase in found["phases"]) < found["dollars"]
    assert world.storage.list("") == before
    assert world.pending == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": "absent"}, "no data set 'absent' in this store"),
        ({"solver": "newtom"}, "unknown solver 'newtom': did you mean 'newton'?"),
        ({"settings": {"tol": 2}}, "tol must lie between 0 and 1"),
        ({"workers": 0}, "workers must be >= 1"),
        ({"max_cost": -1}, "max_cost must be a number above 0"),
        ({"id": "X"}, "bad job id 'X'"),
        ({"data": 5}, "spec: 'data' is no field of a job, or of another type"),
        ({"other": 5}, "spec: 'other' is no field of a job"),
        ({"problem": {"loss": []}}, ""),
        ({"problem": {"loss": "logistic", "l2": {}}}, ""),
        ({"problem": {"loss": "logistic", "class_weight": {"a": {}}}}, ""),
        ({"profile": {"workers": 1}}, "spec: TypeError"),
        ({"start": "job-two"}, ""),
    ],
)
def test_jobs_that_cannot_be(world, change, said):
    before = world.storage.list("")
    status, found = world.ask("POST", "/jobs", {"spec": SPEC | change})
    assert 400 <= status < 500, found
    assert said in found["error"]["message"]
    assert "Traceback" not in json.dumps(found)
    assert world.storage.list("") == before


def test_an_id_is_taken_once(world):
    world.ask("POST", "/jobs", {"spec": SPEC})
    status, found = world.ask("POST", "/jobs", {"spec": SPEC})
    assert (status, found["error"]["message"]) == (
        400,
        "job 'job-one' exists already: choose another id, or resume it",
    )


def test_cancel(world):
    world.ask("POST", "/jobs", {"spec": SPEC})
    assert world.ask("POST", "/jobs/job-one/cancel")[0] == 200
    world.pump()
    assert world.ask("GET", "/jobs/job-one")[1]["status"]["state"] == "cancelled"
    assert world.ask("POST", "/jobs/job-one/cancel")[0] == 200  # nothing happens to it now
    assert world.ask("POST", "/jobs/job-one/resume")[0] == 200
    world.pump()
    assert world.ask("GET", "/jobs/job-one")[1]["status"]["state"] == "done"
    assert world.ask("POST", "/jobs/job-one/resume")[0] == 409


def test_a_dead_driver_is_called_again_by_whoever_looks(world):
    world.ask("POST", "/jobs", {"spec": SPEC})
    world.pending.clear()
    store = JobStore(world.storage)
    store.lease("job-one", "dead", 0.0)
    time.sleep(0.01)
    for _ in range(3):
        assert world.ask("GET", "/jobs/job-one")[1]["status"]["state"] == "queued"
    assert len(world.pending) == 1  # not at every look
    world.pump()
    status = world.ask("GET", "/jobs/job-one")[1]["status"]
    assert status["state"] == "done"


def test_a_driver_that_was_never_heard_of_is_called_again(world, monkeypatch):
    world.ask("POST", "/jobs", {"spec": SPEC})
    world.pending.clear()
    assert world.ask("GET", "/jobs/job-one/events")[1]["status"]["state"] == "queued"
    assert world.pending == []
    monkeypatch.setattr("coordinator.cloud.calling.UNHEARD", -1.0)
    world.ask("GET", "/jobs/job-one/events")
    assert world.pending == [{"job": "job-one", "left_off": 0}]


def test_lambda_tells_of_a_driver_that_died(world, monkeypatch):
    monkeypatch.setitem(api._made, "api", world.api)
    world.ask("POST", "/jobs", {"spec": SPEC})
    world.pending.clear()
    store = JobStore(world.storage)
    store.lease("job-one", "chance.call-1", 30.0)
    event = {"requestContext": {"requestId": "call-1", "condition": "RetriesExhausted"}}
    assert api.handler(event | {"requestPayload": {"job": "job-one"}}) is None
    assert world.pending == [{"job": "job-one", "left_off": 0}]
    world.pump()
    assert store.status("job-one").state == "done"
    assert api.handler(event | {"requestPayload": {"job": "job-two"}}) is None  # deleted meanwhile
    assert api.handler({})["statusCode"] == 400


def test_a_driver_that_cannot_be_called_again_is_told_of_again(world, monkeypatch):
    monkeypatch.setitem(api._made, "api", world.api)
    world.ask("POST", "/jobs", {"spec": SPEC})
    world.broken = True
    event = {"requestContext": {"requestId": "call-1", "condition": "EventAgeExceeded"}}
    with pytest.raises(StorageError, match="cannot call the driver"):
        api.handler(event | {"requestPayload": {"job": "job-one"}})


def test_a_driver_that_cannot_be_called(world):
    world.broken = True
    status, found = world.ask("POST", "/jobs", {"spec": SPEC})
    assert (status, found["error"]["type"]) == (503, "StorageError")
    assert found["error"]["message"] == "cannot call the driver driver: HTTP 404 no such function"
    world.broken = False
    assert world.ask("POST", "/jobs/job-one/resume")[0] == 200
    world.pump()
    assert world.ask("GET", "/jobs/job-one")[1]["status"]["state"] == "done"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("PUT", "/jobs", 404),
        ("GET", "/jobs/absent-job", 404),
        ("GET", "/jobs/UPPER", 400),
        ("GET", "/jobs/..%2fdata", 400),
        ("POST", "/jobs", 400),
        ("DELETE", "/jobs/absent-job", 404),
        ("GET", "/jobs/absent-job/result", 404),
    ],
)
def test_what_is_not_there(world, method, path, status):
    assert world.ask(method, path)[0] == status


# -- malformed requests: 10,000 in all ----------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MANY = settings(max_examples=2000, suppress_health_check=list(HealthCheck), derandomize=True)
WORDS = st.sampled_from(
    ["jobs", "job-one", "events", "result", "cancel", "resume", "quote", "versions", "..", "data", ""]
)
PATHS = st.lists(WORDS | st.text(max_size=6), max_size=4).map(lambda parts: "/" + "/".join(parts))


def mutated(base):
    """`base` with some of its values, at any depth, gone or replaced by anything."""

    @st.composite
    def change(draw, value=base):
        if isinstance(value, dict) and draw(st.integers(0, 4)):
            out = {}
            for key, inner in value.items():
                fate = draw(st.integers(0, 7))
                if fate == 0:
                    continue
                out[key] = draw(JSON) if fate == 1 else draw(change(inner))
            if draw(st.integers(0, 9)) == 0:
                out[draw(st.text(max_size=5))] = draw(JSON)
            return out
        return draw(JSON) if draw(st.integers(0, 5)) == 0 else value

    return change()


@pytest.fixture(scope="module")
def steady(fakes, tmp_path_factory):
    storage = filled(fakes[0]())
    world = World(storage, fakes[1](storage, tmp_path_factory.mktemp("api")))
    world.before = dict(world.storage._data), set(world.storage._arrays)
    return world


def harmless(world, answer):
    """A typed refusal, or an answer to a question, with nothing changed."""
    body = json.loads(answer["body"])
    if answer["statusCode"] != 200:
        assert 400 <= answer["statusCode"] < 500, answer
        assert set(body["error"]) == {"type", "message"}
        assert "\n" not in body["error"]["message"]
        assert "Traceback" not in answer["body"]
    assert (dict(world.storage._data), set(world.storage._arrays)) == world.before
    assert world.pending == []


@pytest.mark.e2e
@MANY
@given(event=JSON)
def test_events_that_are_anything(steady, event):
    answer = steady.api.answer(event)
    assert answer["statusCode"] == 400
    harmless(steady, answer)


@pytest.mark.e2e
@MANY
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "", "get"]),
    path=PATHS,
    query=st.none() | st.dictionaries(st.sampled_from(["since", "x"]), st.text(max_size=12), max_size=2),
    body=st.none() | st.text(max_size=20) | st.binary(max_size=20),
    encoded=st.booleans() | st.none(),
    headers=st.none() | st.dictionaries(st.sampled_from(["x-overcast-version", "a"]), st.text(max_size=12), max_size=2),
)
def test_requests_that_are_nearly_so(steady, method, path, query, body, encoded, headers):
    text = base64.b64encode(body).decode() if isinstance(body, bytes) else body
    event = {
        "requestContext": {"http": {"method": method}},
        "rawPath": path,
        "queryStringParameters": query,
        "headers": headers,
        "body": text,
        "isBase64Encoded": encoded,
    }
    harmless(steady, steady.api.answer(event))


WHOLE = {
    "data": "two",
    "problem": {
        "loss": {"name": "huber", "delta": 1.0},
        "l2": 1e-3,
        "l1": 0.0,
        "intercept": True,
        "class_weight": None,
    },
    "solver": "oversketched-newton",
    "settings": {"tol": 1e-6, "max_iter": 5, "strategy": "auto", "sketch_rows": 10},
    "workers": 4,
    "profile": None,
    "start": None,
    "policy": "wait",
    "max_cost": 1.0,
    "deadline": 1e10,
    "id": "job-one",
}


@pytest.mark.e2e
@MANY
@given(spec=mutated(WHOLE))
def test_specs_that_are_nearly_so(steady, spec):
    # a quote checks as a submission does, and stores nothing if all is well
    event = {
        "requestContext": {"http": {"method": "POST"}},
        "rawPath": "/quote",
        "body": json.dumps({"spec": spec}),
    }
    harmless(steady, steady.api.answer(event))


GLM = {"loss": "logistic", "classes": [0.0, 1.0], "class_weight": None, "intercept": True, "double": False}
TASK = {
    "task": {
        "kernel": "glm.evaluate",
        "output": "jobs/j/o",
        "blocks": ["data/two/x/block-00000"],
        "n_features": 4,
        "inputs": {"w": "jobs/j/w"},
        "params": {
            "problem": {
                "loss": "logistic",
                "classes": [0.0, 1.0],
                "class_weight": None,
                "intercept": True,
                "double": False,
            }
        },
    },
    "key": "jobs/j/o.1",
    "store": "large",
    "attempt": 1,
    "marked": False,
}


@pytest.mark.e2e
@MANY
@given(event=JSON | mutated(TASK | {"marked": False}))
def test_tasks_that_are_nearly_so(steady, event, tmp_path_factory):
    if isinstance(event, dict) and event.get("marked") is True:
        event["marked"] = False  # asked to, it would say in storage that it failed
    environment = Environment(steady.storage, 512, 0, tmp_path_factory.getbasetemp())
    answer = environment.answer(event)
    assert 400 <= answer["status"] < 500, answer
    assert set(answer["error"]) == {"type", "message"}
    assert "Traceback" not in json.dumps(answer)
    harmless(steady, {"statusCode": 200, "body": "{}"})


@pytest.mark.e2e
@MANY
@given(event=JSON | mutated({"job": "job-one", "left_off": 0}))
def test_calls_of_the_driver_that_are_nearly_so(steady, event):
    answer = drive(event, Clock(lambda: 900.0), DEPLOYMENT, steady.storage, steady)
    assert 400 <= answer["status"] < 500
    harmless(steady, {"statusCode": 200, "body": "{}"})


def test_clean_leaves_nothing(world):
    before = world.storage.list("")
    world.ask("POST", "/jobs", {"spec": SPEC | {"settings": {"tol": 1e-4}}})
    world.pump()
    assert asdict(JobStore(world.storage).status("job-one"))["state"] == "done"
    world.ask("DELETE", "/jobs/job-one")
    assert world.storage.list("") == before
