"""Faults in random mixes, codes with spares, clients that die: jobs on the emulated cloud end at the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.data.importing import ImportOptions, import_data
from coordinator.driver import run_job
from coordinator.errors import JobError
from coordinator.jobs import JobSpec, JobStore
from coordinator.profile import Profile
from coordinator.results import Result
from coordinator.storage import MemoryStorage
from overcast import CloudClient

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("calm")]

MIXES = int(os.environ.get("OVERCAST_TEST_MIXES", "50"))
AT_ONCE = 5  # jobs of a test, each under its own mix: much of their time they wait for what died
RATES = Profile(2, 2e10, 1e10, 5e8, 8e10, 4e10, 8e10, 6e9, 1e8, 1e10)
PROBLEM = {"loss": "logistic", "l2": 1e-3}
SOLVERS: list[tuple[str, dict[str, Any]]] = [
    ("newton", {"tol": 1e-9}),
    ("oversketched-newton", {"tol": 1e-5, "strategy": "sketch"}),
    ("lbfgs", {"tol": 1e-3}),
]
_alone: dict[str, Result] = {}


def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((1200, 8))
    return X, (X @ rng.standard_normal(8) + rng.standard_normal(1200) > 0).astype(float)


def store_of(spec: dict[str, Any]) -> MemoryStorage:
    """A store in memory with the data and a job of this spec."""
    storage = MemoryStorage()
    X, y = rows()
    import_data(storage, X, ImportOptions("few", block_bytes=24 << 10), target=y)
    JobStore(storage).create(JobSpec("alone", "few", PROBLEM, profile=asdict(RATES), **spec))
    return storage


def alone(solver: str, settings: dict[str, Any]) -> Result:
    """What one process finds."""
    if solver not in _alone:
        _alone[solver] = run_job(store_of({"solver": solver, "settings": settings}), "alone")
    return _alone[solver]


def same(a: Result, b: Result) -> None:
    assert a.coef_.tobytes() == b.coef_.tobytes()
    assert [row["objective"] for row in a.history] == [row["objective"] for row in b.history]
    assert (a.n_iter_, a.reason, a.passes) == (b.n_iter_, b.reason, b.passes)


@pytest.fixture(scope="module")
def client(hasty: CloudClient) -> CloudClient:
    """With the data there."""
    X, y = rows()
    hasty.import_data(X, "few", target=y, block_bytes=24 << 10, replace=True)
    return hasty


def mix(seed: int, job: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rules by chance for a job's calls and S3 requests: each kind in half of all mixes, a driver's death in few."""
    rng = np.random.default_rng([11, seed])
    rate = lambda most: round(float(rng.uniform(0.01, most)), 3)  # noqa: E731
    worker = "*-worker*"
    pool = [
        {
            "function": worker,
            "rate": rate(0.1),
            "fault": {"kind": "exit", "delay": round(float(rng.uniform(0, 0.02)), 3)},
        },
        {"function": worker, "rate": rate(0.4), "times": 30, "fault": {"kind": "throttle"}},
        {"function": "*-worker", "rate": 0.1, "times": 1, "fault": {"kind": "oom"}},
        {"function": worker, "rate": rate(0.05), "times": 1, "fault": {"kind": "die"}},
        {
            "function": worker,
            "rate": rate(0.2),
            "fault": {"kind": "straggle", "delay": {"pareto": {"scale": 0.03, "alpha": 1.5}}},
        },
        {
            "function": worker,
            "rate": rate(0.2),
            "fault": {"kind": "late", "delay": {"lognormal": {"median": 0.05, "sigma": 1.0}}},
        },
        {"function": worker, "rate": rate(0.2), "fault": {"kind": "duplicate"}},
        {"function": "*-driver", "times": 1, "fault": {"kind": "duplicate"}},
    ]
    rules = [rule for rule in pool if rng.random() < 0.5]
    if rng.random() < 0.1:
        delay = round(float(rng.uniform(0.05, 1.0)), 3)
        rules.append({"function": "*-driver", "times": 1, "fault": {"kind": "exit", "delay": delay}})
    s3 = [{"prefix": f"jobs/{job}/", "methods": ["PUT", "GET"], "rate": rate(0.1)}] if rng.random() < 0.5 else []
    return [rule | {"contains": job} for rule in rules], s3


@pytest.mark.parametrize("first", range(0, MIXES, AT_ONCE))
def test_mixes_of_faults_lose_nothing_and_count_nothing_twice(client: CloudClient, deployment: Any, first: int) -> None:
    """Every job ends at the bits of one process; or says in one line why not, and goes on to them once it is calm."""
    seeds = {f"mix-{seed:03d}": seed for seed in range(first, min(first + AT_ONCE, MIXES))}
    plans = [mix(seed, name) for name, seed in seeds.items()]
    rules, s3 = (list(chain.from_iterable(part)) for part in zip(*plans, strict=True))
    deployment.emulator.faults({"seed": first, "rules": rules, "s3": s3})
    jobs = {}
    for name, seed in seeds.items():
        solver, settings = SOLVERS[seed % len(SOLVERS)]
        jobs[name] = client.submit(
            "few", solver=solver, id=name, profile=asdict(RATES), workers=4, **PROBLEM, **settings
        )
    results, failed = {}, []
    for name, job in jobs.items():
        try:
            results[name] = job.result(100)
        except JobError:
            failed.append(name)
            message = job.status().message
            assert message
            assert "\n" not in message
    assert deployment.emulator.applied()["faults"]
    deployment.emulator.faults()
    for name in failed:
        results[name] = jobs[name].resume().result(100)
    for name, job in jobs.items():
        solver, settings = SOLVERS[seeds[name] % len(SOLVERS)]
        same(results[name], alone(solver, settings))
        iterations = [row["iteration"] for row in job.events()]
        assert iterations == list(range(results[name].n_iter_ + 1)), name
        assert job.delete() > 3
        assert client.storage.list(f"jobs/{name}") == []
    assert len(failed) <= 1


def test_a_silent_death_is_noticed(client: CloudClient, deployment: Any) -> None:
    solver, settings = SOLVERS[0]
    deployment.emulator.faults({"seed": 1, "rules": [{"function": "*-worker", "nth": [3], "fault": {"kind": "die"}}]})
    job = client.submit("few", solver=solver, profile=asdict(RATES), workers=4, **PROBLEM, **settings)
    result = job.result(100)
    assert deployment.emulator.applied()["faults"] == {"die": 1}
    same(result, alone(solver, settings))
    fates = [record.fate for record in job.tasks() if record.fate != "used"]
    assert len(fates) == 1
    assert "overcast-local-worker" in fates[0]


def test_codes_with_spares_repeat_by_their_arrivals(client: CloudClient, deployment: Any) -> None:
    """Which sketches come first is chance; one process that is given the same ones finds the same bits."""
    tiles = {"tol": 1e-4, "strategy": "sketch", "layout": "tiles", "blocks": 4, "extra": 2, "max_iter": 6}
    slow = {"kind": "straggle", "delay": {"lognormal": {"median": 0.1, "sigma": 1.0}}}
    rules = [{"function": "*-worker", "rate": 0.3, "fault": slow}]
    deployment.emulator.faults({"seed": 2, "rules": rules})
    job = client.submit("few", solver="oversketched-newton", profile=asdict(RATES), workers=6, **PROBLEM, **tiles)
    result = job.result(100)
    events = job.events()
    assert any(row["arrivals"] for row in events)
    storage = store_of({"solver": "oversketched-newton", "settings": tiles})
    again = run_job(storage, "alone", replay={row["iteration"]: row["arrivals"] for row in events})
    same(result, again)


def test_no_task_starts_a_second_after_a_cancel(client: CloudClient, deployment: Any) -> None:
    settings = {"tol": 1e-15, "max_iter": 10**6}
    job = client.submit("few", solver="gradient-descent", workers=4, **PROBLEM, **settings)
    for _ in job.stream(60):
        break
    job.cancel()
    time.sleep(1.0)  # what is promised
    worker = deployment.stack.workers[0]
    count = deployment.emulator.counts()["functions"][worker]["invocations"]
    assert job.wait(30).state == "cancelled"
    assert deployment.emulator.counts()["functions"][worker]["invocations"] == count


def test_the_client_may_die(client: CloudClient, deployment: Any, tmp_path: Path) -> None:
    """A command that follows a job is killed; another, elsewhere, finds the job by the beginning of its id."""
    variables = {**os.environ, **deployment.variables, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "overcast.cli"]
    words = ["solve", "few", "--loss", "logistic", "--l2", "1e-3", "--solver", "newton", "--tol", "1e-9"]
    slow = {"kind": "straggle", "delay": 0.2}
    deployment.emulator.faults({"seed": 3, "rules": [{"function": "*-worker", "rate": 0.3, "fault": slow}]})
    follower = subprocess.Popen(
        [*command, *words, "--id", "job-orphan", "--stage", "local"],
        env=variables,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    assert follower.stderr is not None
    with follower.stderr as said:
        while b"iteration" not in said.readline():
            assert follower.poll() is None
    follower.kill()
    assert follower.wait() == -signal.SIGKILL
    ended = subprocess.run(
        [*command, "jobs", "wait", "job-orp", "--json", "--quiet", "--stage", "local"],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert '"spent"' in ended.stdout
    result = client.job("job-orphan").result()
    assert result.converged
    assert [row["iteration"] for row in result.history] == list(range(result.n_iter_ + 1))
