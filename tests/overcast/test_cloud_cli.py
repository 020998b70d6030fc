"""The command line on a stage: an api, drivers and workers in threads of this process, over storage in memory."""

from __future__ import annotations

import csv
import io
import json
import threading

import numpy as np
import pytest

from coordinator.cloud.api import Api
from coordinator.cloud.deployment import Deployment
from coordinator.cloud.driver import Clock, drive
from coordinator.cloud.invoke import Reply
from coordinator.cloud.worker import Environment
from coordinator.errors import CodeRefusedError, InputError, ItemError
from coordinator.s3 import Usage
from coordinator.storage import MemoryStorage
from overcast import place as places
from overcast.cloud import CloudClient

SOLVE = ("--loss", "logistic", "--l2", "1e-3", "--solver", "newton")


class CountedStorage(MemoryStorage):
    """Storage that has a count of requests, as S3 does; it stays at nought."""

    def __init__(self):
        super().__init__()
        self.usage = Usage()


class InProcess:
    """A stage: calls of the driver run in threads, those of workers at once."""

    def __init__(self, folder):
        from importlib.metadata import version

        self.deployment = Deployment("bucket", "test", "driver", ("worker",), version("overcast"), memory=(512,))
        self.storage = CountedStorage()
        self.api = Api(self.deployment, self.storage, self)
        self.folder, self.drivers, self.calls = folder, [], 0
        self.hold = threading.Event()
        self.hold.set()
        self._mine = threading.local()

    def __call__(self, function, payload, *, wait, timeout):
        if function == "driver":
            self.drivers.append(threading.Thread(target=self._drive, args=(json.loads(payload),)))
            self.drivers[-1].start()
            return Reply(202, b"")
        assert self.hold.wait(60)
        self.calls += 1
        if not hasattr(self._mine, "environment"):
            self._mine.environment = Environment(self.storage, 512, 1 << 20, self.folder, init=0.3)
        return Reply(200, json.dumps(self._mine.environment.answer(json.loads(payload))).encode())

    def _drive(self, event):
        drive(event, Clock(lambda: 900.0), self.deployment, self.storage, self)

    def http(self, method, path, body=b"", headers=None, timeout=60.0):
        path, _, query = path.partition("?")
        event = {
            "rawPath": path,
            "requestContext": {"http": {"method": method}},
            "headers": dict(headers or {}),
            "queryStringParameters": dict(item.split("=") for item in query.split("&") if item),
            "body": body.decode(),
        }
        answer = self.api.answer(event)
        return answer["statusCode"], answer["body"].encode(), {}

    def close(self):
        self.hold.set()
        for driver in self.drivers:
            driver.join(60)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """The stage "test"."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    made = InProcess(tmp_path)

    def connect(name):
        assert name == "test"
        client = CloudClient("http://127.0.0.1:9", "bucket")
        client._http.close()
        client._http, client._storage = made.http, made.storage
        return client

    monkeypatch.setattr(places, "connect", connect)
    yield made
    made.close()


def test_from_import_to_clean(cli, stage, libsvm, tmp_path):
    """Every command that works on a store works on a stage, by one word."""
    on = ("--stage", "test")
    assert cli("import", libsvm, "--block-mb", "0.01", *on).code == 0
    assert cli("import", "--list", "--json", *on).out.count('"two"') == 1
    ran = cli("solve", "two", *SOLVE, "--id", "job-one", "--json", *on)
    assert ran.code == 0
    found = json.loads(ran.out)
    assert (found["job"], found["converged"]) == ("job-one", True)
    assert 0 < sum(found["spent_by_phase"].values()) < found["spent"]
    assert found["quoted"] > 0
    assert set(found["quoted_by_phase"]) == set(found["spent_by_phase"]) == {"gradient", "hessian", "cold starts"}
    assert "iteration 0" in ran.err
    listed = json.loads(cli("jobs", "list", "--json", *on).out)
    assert [(job["id"], job["state"], job["data"]) for job in listed] == [("job-one", "done", "two")]
    shown = cli("jobs", "show", "job", *on)
    assert "spent" in shown.out
    events = [json.loads(line) for line in cli("jobs", "events", "latest", "--json", "--follow", *on).out.splitlines()]
    assert [row["iteration"] for row in events] == list(range(found["iterations"] + 1))
    after = cli("jobs", "events", "latest", "--since", "1", *on).out.splitlines()
    assert len(after) == found["iterations"] - 1
    assert cli("jobs", "wait", "latest", "--quiet", *on).code == 0
    said = cli("jobs", "result", "latest", *on).out
    assert "quoted $" in said
    assert said == cli("result", "job-one", *on).out
    assert "driver $" in said
    assert cli("predict", "latest", libsvm, "--output", tmp_path / "p.csv", *on).code == 0
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 601
    rows = list(csv.DictReader(io.StringIO(cli("jobs", "show", "latest", "--tasks", "-", *on).out)))
    assert len(rows) == stage.calls
    assert sum(int(row["cold"]) for row in rows) >= 1
    page = tmp_path / "page.html"
    assert cli("report", "latest", "--output", page, *on).code == 0
    assert "quoted $" in page.read_text()
    assert cli("jobs", "clean", "latest", *on).code == 0
    assert stage.storage.list("jobs") == []


def test_the_solution_is_the_one_found_here(cli, stage, libsvm):
    assert cli("solve", libsvm, *SOLVE, "--quiet", "--stage", "test").code == 0
    assert cli("solve", libsvm, *SOLVE, "--quiet").code == 0
    there = json.loads(cli("result", "latest", "--json", "--stage", "test").out)
    here = json.loads(cli("result", "latest", "--json").out)
    assert there["coef"] == here["coef"]
    assert there["intercept"] == here["intercept"]
    assert "spent" not in here


def test_submitted_jobs_need_no_client(cli, stage, libsvm):
    stage.hold.clear()
    ran = cli("submit", libsvm, *SOLVE, "--stage", "test")
    assert ran.code == 0
    job = ran.out.strip()
    assert cli("jobs", "wait", job, "--timeout", "0.01", "--quiet", "--stage", "test").code == 1
    assert cli("jobs", "clean", job, "--stage", "test").code == 1  # it runs
    stage.hold.set()
    assert cli("jobs", "wait", job[:10], "--quiet", "--stage", "test").code == 0
    assert cli("jobs", "cancel", job, "--stage", "test").err == f"overcast: job {job} had ended: done\n"


def test_exit_codes_follow_the_job(cli, stage, libsvm):
    on = ("--stage", "test", "--quiet")
    assert cli("solve", libsvm, *SOLVE, "--max-iter", "1", *on).code == 4
    stage.hold.clear()
    slow = ("--loss", "logistic", "--solver", "gradient-descent", "--tol", "1e-15", "--max-iter", "1000000")
    job = cli("submit", "two", *slow, "--stage", "test").out.strip()
    assert cli("jobs", "cancel", job, "--stage", "test").code == 0
    assert cli("jobs", "wait", job, *on).code == 1  # it has no iterate
    stage.hold.set()
    assert cli("jobs", "show", job, "--json", "--stage", "test").out.count('"cancelled"') == 1
    assert cli("jobs", "show", "nobody", "--stage", "test").code == 2
    ran = cli("solve", "two", *SOLVE, "--max-cost", "1e-9", *on)
    assert (ran.code, "stopped at max_cost" in ran.err) == (1, True)  # before its first iterate


def test_quotes(cli, stage, libsvm):
    """On a stage and on a store; nothing is run. What fits into no worker is refused."""
    assert cli("quote", libsvm, *SOLVE).code == 0
    here = json.loads(cli("quote", "two", *SOLVE, "--json").out)
    there = json.loads(cli("quote", libsvm, *SOLVE, "--json", "--stage", "test").out)
    for quote in (here, there):
        assert {phase["name"] for phase in quote["phases"]} == {"gradient", "hessian"}
        assert all(phase["memory"] > 100 and phase["tasks"] > 0 for phase in quote["phases"])
        assert quote["dollars"] > quote["driver_dollars"] > 0
    shown = cli("quote", "two", *SOLVE, "--stage", "test")
    refused = {"--set l2=3": "unknown setting of solver", "--executor lithops": "executor is for jobs on a store"}
    for words, says in refused.items():
        ran = cli("quote", "two", *SOLVE, *words.split(), "--stage", "test")
        assert (ran.code, says in ran.err) == (2, True), ran.err
    for word in ("MB a worker", "dollars", "driver", "cold starts", "in all", f"{there['dollars']:.6f}"):
        assert word in shown.out
    assert "right within a factor" in shown.err
    assert stage.calls == 0
    assert json.loads(cli("jobs", "--json").out) == []
    rng = np.random.default_rng(0)
    places.connect("test").import_data(rng.standard_normal((40, 6000)), "wide", target=rng.standard_normal(40))
    ran = cli("quote", "wide", "--loss", "squared", "--l2", "1", "--solver", "newton", "--stage", "test")
    assert ran.code == 2
    assert "needs" in ran.err


def test_hello(cli, stage):
    ran = cli("hello", "--stage", "test", "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert (found["stage"], found["bucket"]) == ("test", "bucket")
    assert found["job"].startswith("solved in ")
    assert stage.storage.list("jobs") == []
    assert cli("hello").code == 2
    calls = stage.calls
    assert cli("hello", "--stage", "test").code == 0  # its data are there already
    assert stage.calls > calls


def test_where_a_command_works(monkeypatch, tmp_path):
    monkeypatch.delenv("OVERCAST_STAGE", raising=False)
    assert places.named(None, None) is None
    assert places.named(None, "prod") == "prod"
    monkeypatch.setenv("OVERCAST_STAGE", "dev")
    assert places.named(None, None) == "dev"
    assert places.named(None, "prod") == "prod"
    assert places.named("folder", None) is None
    with pytest.raises(InputError, match="two places"):
        places.named("folder", "prod")


def test_a_stage_is_found_by_variables_or_by_its_stack(monkeypatch, s3_settings):
    monkeypatch.setenv("OVERCAST_API", "http://127.0.0.1:9/x/")
    monkeypatch.setenv("OVERCAST_BUCKET", "b")
    monkeypatch.setenv("OVERCAST_STAGE", "dev")
    assert places.connect("dev").url == "http://127.0.0.1:9/x"
    for name in ("OVERCAST_API", "OVERCAST_STAGE"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(places, "_outputs", {"prod": {"ApiLambdaFunctionUrl": "http://p/", "Bucket": "b"}}.get)
    assert places.connect("prod").url == "http://p"
    monkeypatch.setattr(places, "_outputs", lambda stage: {"Bucket": "b"})
    with pytest.raises(InputError, match="no output 'ApiLambdaFunctionUrl': deploy it again"):
        places.connect("prod")
    monkeypatch.setattr(places, "emulated", lambda: None)
    with pytest.raises(InputError, match="not running: start it with `overcast emulator up`"):
        places.connect("local")


def test_without_the_repository(cli, monkeypatch, tmp_path):
    monkeypatch.setattr(places, "ROOT", tmp_path)
    for command in (("deploy", "prod"), ("emulator", "up")):
        ran = cli(*command)
        assert ran.code == 2
        assert ran.err.count("\n") == 1
        assert "needs the repository's infra/, which is not in the package" in ran.err


def test_deploy_builds_deploys_and_says_where(cli, stage, monkeypatch):
    """What osls is told; it deploys for real in the tests of infra."""
    from pathlib import Path
    from types import SimpleNamespace

    told = []
    monkeypatch.setattr("infra.build.build", lambda arch: told.append(arch) or SimpleNamespace(path=Path("l.zip")))
    monkeypatch.setattr("infra.osls.run", lambda words, variables: told.append(words) or "")
    where = ["--stage", "test", "--region", "eu-west-1", "--param=arch=x86_64", "--param=workerTimeout=300"]
    given = ("test", "--region", "eu-west-1", "--arch", "x86_64", "--param", "workerTimeout=300")
    ran = cli("deploy", *given, "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["url"] == "http://127.0.0.1:9"
    assert told == ["x86_64", ["deploy", *where]]
    stage.storage.put("data/x/a", b"1")
    stage.storage.put("jobs/job-one/a", b"1")
    assert "2 objects" in cli("deploy", *given, "--remove").err
    assert told[-1] == ["remove", *where]
    assert stage.storage.list("") == []
    assert cli("deploy", "local").code == 2


def test_logs_of_a_store(cli, libsvm):
    job = cli("submit", libsvm, *SOLVE).out.strip()
    assert cli("jobs", "wait", job, "--quiet").code == 0
    assert cli("jobs", "logs", job).code == 0


def test_logs_of_a_stage(cli, stage, libsvm, monkeypatch):
    """Pages of events, of the driver or of all workers."""
    asked = []

    class Logs:
        def filter_log_events(self, **wanted):
            asked.append(wanted)
            event = {"timestamp": 1000, "message": f"line {len(asked)}\n"}
            return {"events": [event], **({"nextToken": "t"} if len(asked) == 1 else {})}

    monkeypatch.setattr("overcast.logs.aws", lambda service: Logs())
    cli("solve", libsvm, *SOLVE, "--quiet", "--stage", "test")
    lines = cli("jobs", "logs", "--stage", "test").out.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["line 1", "line 2"]
    assert asked[1]["nextToken"] == "t"
    assert {one["logGroupName"] for one in asked} == {"/aws/lambda/overcast-test-driver"}
    assert asked[0]["startTime"] < asked[0]["endTime"]
    cli("jobs", "logs", "--workers", "--stage", "test")
    assert [one["logGroupName"].rsplit("-", 1)[1] for one in asked[2:]] == ["worker", "large", "xlarge"]


def test_functions_are_mapped_on_a_stage(cli, stage, monkeypatch):
    client = places.connect("test")
    with pytest.raises(CodeRefusedError, match="OVERCAST_ALLOW_CODE=1"):
        client.map(lambda x: x, [1], id="refused")
    stage._mine = threading.local()  # new environments, of a deployment that allows code
    monkeypatch.setenv("OVERCAST_ALLOW_CODE", "1")
    assert client.map(lambda x: {"x": np.arange(x)}, range(4), id="ranges")[3]["x"].tolist() == [0, 1, 2]
    assert client.job("ranges").outputs()[1]["x"].tolist() == [0]
    assert stage.storage.list("jobs/ranges/scratch") == []
    with pytest.raises(ItemError, match=r"^item 2: ZeroDivisionError: ") as caught:
        client.map(lambda x: 1 / (2 - x), range(4), retries=0)
    assert caught.value.index == 2
    assert cli("jobs", "wait", "ranges", "--stage", "test").out.endswith("4 results\n")
