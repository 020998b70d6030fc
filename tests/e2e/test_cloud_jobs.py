"""Jobs on the emulated cloud, deployed as on AWS: their bits are those of one process, whatever happens to them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.data.importing import ImportOptions, import_data
from coordinator.driver import run_job
from coordinator.errors import InputError, JobError, JobMissingError
from coordinator.jobs import JobSpec, JobStore
from coordinator.profile import Profile
from coordinator.results import Result
from coordinator.solvers import SOLVERS
from coordinator.storage import MemoryStorage
from overcast import CloudClient

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("calm")]

RATES = Profile(2, 2e10, 1e10, 5e8, 8e10, 4e10, 8e10, 6e9, 1e8, 1e10)
LOGISTIC = {"loss": "logistic", "l2": 1e-3}


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Two classes from a few columns of unlike scales, as flights have them, and groups of rare ones."""
    rng = np.random.default_rng(7)
    n = 4000
    groups = (rng.integers(0, 12, (n, 1)) == np.arange(12)).astype(float)
    X = np.concatenate([rng.standard_normal((n, 6)) * np.geomspace(1, 0.01, 6), groups], axis=1)
    y = (X @ rng.standard_normal(18) + 0.7 * rng.standard_normal(n) > 0.3).astype(float)
    return X, y


@pytest.fixture(scope="module")
def client(deployment: Any) -> Iterator[CloudClient]:
    """A client of the emulated deployment, with the data there; it may be asked for again after other modules."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in deployment.variables.items():
            patch.setenv(name, value)
        found = CloudClient(deployment.stack.api)
        X, y = rows()
        found.import_data(X, "rows", target=y, block_bytes=64 << 10, replace=True)
        found.import_data(X, "thirds", target=y, block_bytes=256 << 10, replace=True)
        found.import_data(X, "bounds", target=1.0 + np.abs(X).sum(axis=1), block_bytes=64 << 10, replace=True)
        yield found


def alone(**fields: Any) -> Result:
    """The result of the same job in one process."""
    storage = MemoryStorage()
    X, y = rows()
    import_data(storage, X, ImportOptions("rows", block_bytes=64 << 10), target=y)
    import_data(storage, X, ImportOptions("thirds", block_bytes=256 << 10), target=y)
    import_data(storage, X, ImportOptions("bounds", block_bytes=64 << 10), target=1.0 + np.abs(X).sum(axis=1))
    JobStore(storage).create(JobSpec("alone", **({"data": "rows", "profile": asdict(RATES)} | fields)))
    return run_job(storage, "alone")


def same(a: Result, b: Result) -> None:
    assert a.coef_.tobytes() == b.coef_.tobytes()
    assert np.asarray(a.intercept_).tobytes() == np.asarray(b.intercept_).tobytes()
    assert [row["objective"] for row in a.history] == [row["objective"] for row in b.history]
    assert (a.n_iter_, a.reason, a.converged) == (b.n_iter_, b.reason, b.converged)


def functions(deployment: Any, name: str) -> list[int]:
    """Process ids of the environments of a function."""
    found = []
    for pid in deployment.emulator.processes():
        with suppress(OSError):
            if f"AWS_LAMBDA_FUNCTION_NAME={name}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes() + b"\0":
                found.append(pid)
    return found


def eventually(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("name", list(SOLVERS))
def test_every_solver_gives_the_bits_of_one_process(client: CloudClient, name: str) -> None:
    settings = {"tol": 1e-6, "max_iter": 8}
    problem: dict[str, Any] = dict(LOGISTIC)
    data = "rows"
    if name == "proximal-newton":
        problem = {"loss": "logistic", "l1": 1e-3}
    if name == "interior-point":
        problem, data = {"c": list(rows()[0][:40].mean(axis=0))}, "bounds"
    job = client.submit(data, solver=name, profile=asdict(RATES), workers=4, **problem, **settings)
    result = job.result(120)
    if "c" in problem:
        problem = {"kind": "linear-program", **problem}
    same(result, alone(data=data, problem=problem, solver=name, settings=settings))
    status = job.status()
    assert (status.state, status.owner) == ("done", "")
    assert 0 < sum(result.cost.values()) < status.spent
    assert all(r.report is not None for r in job.tasks())
    assert job.delete() > 3
    assert client.storage.list(f"jobs/{job.id}") == []


def test_blocks_are_read_once_an_environment(client: CloudClient, deployment: Any) -> None:
    before = deployment.emulator.counts()["s3"].get("GET data/", {}).get("bytes", 0)
    job = client.submit("rows", profile=asdict(RATES), workers=2, tol=1e-9, **LOGISTIC)
    result = job.result(120)
    reports = [r.report for r in job.tasks() if r.report is not None]
    blocks = client.storage.list("data/rows")
    size = sum(len(client.storage.get(key)) for key in blocks)
    read = sum(r.bytes_in for r in reports)
    environments = len(functions(deployment, deployment.stack.workers[0]))
    fetched = sum(r.misses for r in reports)
    assert fetched <= environments * len(blocks)
    assert sum(r.hits for r in reports) > 3 * fetched  # what would have been read anew in every iteration
    assert result.passes > 8
    assert read < environments * size + 4e6
    assert deployment.emulator.counts()["s3"]["GET data/"]["bytes"] - before < environments * size + 2 * size + 1e6


def test_the_driver_is_killed_in_every_iteration(client: CloudClient, deployment: Any) -> None:
    fields = {"solver": "newton", "settings": {"tol": 1e-9}}
    whole = alone(problem=LOGISTIC, **fields)
    slow = {"function": "*-worker", "fault": {"kind": "straggle", "delay": 0.2}}  # so that no iteration is missed
    deployment.emulator.faults({"seed": 1, "rules": [slow]})
    job = client.submit("rows", solver="newton", tol=1e-9, profile=asdict(RATES), workers=4, **LOGISTIC)
    killed, last, until = 0, -1, time.monotonic() + 240
    while not job.status().final:
        assert time.monotonic() < until
        if new := job.events(last):
            last = int(new[-1]["iteration"])
            for pid in functions(deployment, deployment.stack.driver):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        time.sleep(0.05)
    same(job.result(60), whole)
    assert killed >= 3
    assert [row["iteration"] for row in job.events()] == list(range(whole.n_iter_ + 1))


def test_the_driver_is_killed_while_nobody_looks(client: CloudClient, deployment: Any) -> None:
    """Lambda tells of it; the job is read from the bucket only, which wakes nothing."""
    fields = {"solver": "newton", "settings": {"tol": 1e-9}}
    slow = {"function": "*-worker", "fault": {"kind": "straggle", "delay": 0.3}}
    deployment.emulator.faults({"seed": 1, "rules": [slow]})
    job = client.submit("rows", solver="newton", tol=1e-9, profile=asdict(RATES), workers=4, **LOGISTIC).id
    store, killed = JobStore(client.storage), 0
    for iteration in range(3):
        eventually(lambda reached=iteration: store.newest(job) >= reached, 60)
        for pid in functions(deployment, deployment.stack.driver):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    eventually(lambda: store.status(job).final, 60)
    assert killed >= 3
    told = deployment.emulator.applied()["invocations"]
    assert told["overcast-local-api"] == told[deployment.stack.driver] >= 1 + 3  # one was the submission
    same(client.job(job).result(), alone(problem=LOGISTIC, **fields))


@pytest.mark.parametrize("fault", [{"kind": "exit"}, {"kind": "oom", "delay": 0.5}], ids=["at-once", "in-a-step"])
def test_a_job_whose_driver_always_dies_fails(client: CloudClient, deployment: Any, fault: dict[str, Any]) -> None:
    slow = {"function": "*-worker", "fault": {"kind": "straggle", "delay": 3}}
    deployment.emulator.faults({"seed": 1, "rules": [{"function": "*-driver", "fault": fault}, slow]})
    job = client.submit("rows", solver="newton", workers=4, **LOGISTIC)
    store = JobStore(client.storage)
    eventually(lambda: store.status(job.id).final, 60)
    deployment.emulator.faults({"seed": 2, "rules": [slow]})  # and counts anew
    status = store.status(job.id)
    assert (status.state, status.falls) == ("failed", 5)
    kind = {"exit": "Runtime.ExitError", "oom": "Runtime.OutOfMemory"}[fault["kind"]]
    assert f"5 drivers in a row ended without a word after iteration 0 (the last: {kind}: " in status.message
    assert "\n" not in status.message
    with pytest.raises(JobError, match="5 drivers in a row ended without a word"):
        job.result(10)
    time.sleep(1)
    assert deployment.stack.driver not in deployment.emulator.applied()["invocations"]
    deployment.emulator.faults()
    assert job.resume().result(120).converged


def test_twenty_hand_overs(client: CloudClient, deployment: Any) -> None:
    api = deployment.emulator.client("lambda")
    driver = deployment.stack.driver
    usual = api.get_function_configuration(FunctionName=driver)["Timeout"]
    api.update_function_configuration(FunctionName=driver, Timeout=3)
    for pid in functions(deployment, driver):  # warm ones have the old limit
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    slow = {"function": "*-worker", "fault": {"kind": "straggle", "delay": 0.25}}
    deployment.emulator.faults({"seed": 1, "rules": [slow]})
    try:
        settings = {"tol": 1e-15, "max_iter": 120}  # 155 phases; a driver has time for 7 of them
        job = client.submit("thirds", solver="gradient-descent", profile=asdict(RATES), **LOGISTIC, **settings)
        result = job.result(480)
        status = job.status()
    finally:
        api.update_function_configuration(FunctionName=driver, Timeout=usual)
    same(result, alone(data="thirds", problem=LOGISTIC, solver="gradient-descent", settings=settings))
    assert status.hops >= 20


def test_cancel_stops_it_and_keeps_its_best_iterate(client: CloudClient, deployment: Any) -> None:
    job = client.submit("rows", solver="gradient-descent", tol=1e-15, max_iter=10**6, workers=4, **LOGISTIC)
    eventually(lambda: len(job.events()) > 2)
    job.cancel()
    began = time.monotonic()
    assert job.wait(30).state == "cancelled"
    assert time.monotonic() - began < 5
    count = deployment.emulator.counts()["functions"][deployment.stack.workers[0]]["invocations"]
    assert job.result().reason == "cancelled; this is the best iterate so far"
    assert deployment.emulator.counts()["functions"][deployment.stack.workers[0]]["invocations"] == count
    assert client.job(job.id).resume().id == job.id  # from wherever
    assert client.job(job.id).cancel() is None
    job.wait(30)


def test_it_stops_at_what_it_may_cost(client: CloudClient) -> None:
    job = client.submit(
        "rows", solver="gradient-descent", tol=1e-15, max_iter=10**6, workers=4, max_cost=0.002, **LOGISTIC
    )
    result = job.result(120)
    assert result.reason.startswith("stopped at max_cost, $0.002, having spent $0.002")
    assert 0.002 <= job.status().spent < 0.003


@pytest.mark.parametrize(
    "rules",
    [
        [{"function": "*-worker", "rate": 0.1, "fault": {"kind": "exit"}}],
        [{"function": "*-worker", "rate": 0.3, "times": 40, "fault": {"kind": "throttle"}}],
        [{"function": "*-worker", "nth": [5], "fault": {"kind": "oom"}}],
        [{"function": "*-worker", "rate": 0.1, "fault": {"kind": "straggle", "delay": 0.3}}],
        [{"function": "*-worker", "rate": 0.1, "fault": {"kind": "late", "delay": 0.3}}],
        [{"function": "*-worker", "rate": 0.1, "fault": {"kind": "duplicate"}}],
        [{"function": "*-driver", "nth": [1], "fault": {"kind": "duplicate"}}],
        [{"function": "*-driver", "nth": [1], "fault": {"kind": "exit", "delay": 0.4}}],
        [],
    ],
    ids=["exit", "throttle", "oom", "straggle", "late", "duplicate", "two-drivers", "driver-exit", "s3"],
)
def test_faults_change_no_bit(client: CloudClient, deployment: Any, rules: list[dict[str, Any]]) -> None:
    s3 = [] if rules else [{"prefix": "jobs/", "methods": ["PUT", "GET"], "rate": 0.1}]
    deployment.emulator.faults({"seed": 5, "rules": rules, "s3": s3})
    job = client.submit("rows", solver="newton", tol=1e-9, profile=asdict(RATES), workers=4, **LOGISTIC)
    result = job.result(120)
    assert deployment.emulator.applied()
    same(result, alone(problem=LOGISTIC, solver="newton", settings={"tol": 1e-9}))


def test_jobs_that_cannot_be_are_refused(client: CloudClient) -> None:
    before = client.storage.list("jobs")
    with pytest.raises(InputError, match="unknown solver 'newtom': did you mean 'newton'"):
        client.submit("rows", solver="newtom", **LOGISTIC)
    with pytest.raises(JobMissingError, match="no job 'absent'"):
        client.job("absent")
    assert client.storage.list("jobs") == before


def test_a_job_that_fails_says_why(client: CloudClient, deployment: Any) -> None:
    deployment.emulator.faults({"seed": 1, "rules": [{"function": "*-worker*", "fault": {"kind": "exit"}}]})
    job = client.submit("rows", solver="newton", workers=4, **LOGISTIC)
    with pytest.raises(JobError, match=r"job .* failed: phase 'gradient#1' lost .* tasks: overcast-local-worker"):
        job.result(120)
    deployment.emulator.faults()
    assert job.resume().result(120).converged
