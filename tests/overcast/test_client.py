from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import overcast
from coordinator.losses import LOSSES
from overcast import Client, CloudClient, InputError, JobError, JobMissingError, Loss, background, register_loss
from overcast.asking import ask

FOREVER = {"solver": "gradient-descent", "tol": 1e-15, "max_iter": 10**7}


def until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_names_of_the_package():
    for name in overcast.__all__:
        assert getattr(overcast, name) is not None
    assert overcast.__version__
    assert set(overcast.__all__) < set(dir(overcast))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = overcast.nothing


def test_import_is_cheap():
    code = "import sys, overcast; sys.exit(any(m in sys.modules for m in ('numpy', 'sklearn', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("profile")
def test_solve_in_memory(arrays):
    X, y = arrays
    rows = []
    result = Client().solve((X, y), loss="logistic", l2=1e-3, watch=rows.append)
    assert result.converged
    assert [row["iteration"] for row in rows] == list(range(result.n_iter_ + 1))
    assert np.mean(result.predict(X) == y) > 0.8


@pytest.mark.usefixtures("profile")
def test_submit_in_memory_runs_in_a_thread(arrays):
    client = Client()
    job = client.submit(arrays, loss="logistic", l2=1e-3, id="in-memory", wait=True)
    assert job.id == "in-memory"
    assert job.status().state == "done"
    assert job.result().converged
    assert [j.id for j in client.jobs()] == ["in-memory"]
    assert repr(job) == "<job in-memory: done>"
    assert client.job("in-m").id == "in-memory"
    job.delete()
    assert client.list() == ()


def test_submit_on_disk_runs_in_a_process(client, arrays):
    job = client.submit(arrays, loss="logistic", l2=1e-3)
    rows = list(job.stream(timeout=30))
    status = job.wait(30)
    assert status.state == "done"
    assert rows[-1]["iteration"] == status.iteration
    assert job.events() == rows
    assert job.events(since=rows[-2]["iteration"]) == rows[-1:]
    here = client.solve(arrays, loss="logistic", l2=1e-3)
    np.testing.assert_array_equal(job.result().coef_, here.coef_)
    # the same arrays are the same data set
    assert len(client.data()) == 1
    assert (Path(client.storage.root) / f"jobs/{job.id}/log.txt").exists()


def test_second_process_follows(client, slow_arrays):
    job = client.submit(slow_arrays, loss="logistic", solver="gradient-descent", tol=1e-12, max_iter=150)
    code = (
        "import sys, overcast\n"
        "job = overcast.Client(sys.argv[1]).job(sys.argv[2])\n"
        "for row in job.stream(60): print(row['iteration'], flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(client.storage.root), job.id]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert [int(line) for line in out.split()] == list(range(151))
    result = job.result(30)
    assert not result.converged
    assert "150 iterations" in result.reason
    with pytest.raises(JobError, match="is done"):
        job.resume()


def test_cancel_stops_within_a_second(client, slow_arrays):
    job = client.submit(slow_arrays, loss="logistic", **FOREVER)
    until(lambda: job.status().iteration >= 3)
    with pytest.raises(TimeoutError, match="still running"):
        job.wait(0.05)
    with pytest.raises(TimeoutError, match="still running"):
        list(job.stream(0.05))
    with pytest.raises(JobError, match="runs already"):
        job.resume()
    with pytest.raises(JobError, match="cancel it first"):
        job.delete()
    began = time.monotonic()
    job.cancel()
    assert job.wait(20).state == "cancelled"
    assert time.monotonic() - began < 2
    result = job.result()
    assert result.n_iter_ >= 3
    assert "best iterate" in result.reason
    job.cancel()  # nothing happens to an ended job
    assert job.status().state == "cancelled"


def test_cancelled_job_can_go_on(client, slow_arrays):
    settings = {"solver": "gradient-descent", "tol": 1e-12, "max_iter": 80}
    whole = client.solve(slow_arrays, loss="logistic", **settings)
    job = client.submit(slow_arrays, loss="logistic", **settings)
    until(lambda: job.status().iteration >= 5)
    job.cancel()
    cancelled = job.wait(20).state == "cancelled"
    if cancelled:  # else it was quicker
        assert job.resume().result(30).n_iter_ == 80
    np.testing.assert_array_equal(job.result().coef_, whole.coef_)


def test_killed_job_resumes_to_the_same_bits(client, slow_arrays):
    settings = {"solver": "gradient-descent", "tol": 1e-12, "max_iter": 300}
    whole = client.solve(slow_arrays, loss="logistic", **settings)
    job = client.submit(slow_arrays, loss="logistic", **settings)
    until(lambda: job.status().iteration >= 20)
    os.kill(job.status().pid, signal.SIGKILL)
    status = job.wait(20)
    assert status.state == "interrupted"
    with pytest.raises(JobError, match=r"interrupted.*resume"):
        job.result()
    assert job.resume(wait=True) is job
    np.testing.assert_array_equal(job.result().coef_, whole.coef_)
    assert [row["iteration"] for row in job.events()] == list(range(301))
    assert not list(client.storage.root.rglob(".tmp*"))


def test_end_of_the_client_changes_nothing(folder, slow_arrays, tmp_path):
    X, y = slow_arrays
    np.savez(tmp_path / "slow.npz", X=X, y=y)
    code = (
        "import sys, os, overcast\n"
        "client = overcast.Client(sys.argv[1])\n"
        "job = client.submit(sys.argv[2], loss='logistic', solver='gradient-descent', tol=1e-12, max_iter=100)\n"
        "print(job.id, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "slow.npz")]
    out = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60).stdout
    job = Client(folder).job(out.strip())
    assert job.wait(30).state == "done"
    assert job.spec.data == "slow"


def test_a_process_that_cannot_begin_is_told(client, arrays, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    job = client.submit(arrays, loss="logistic", l2=1e-3)
    assert job.wait(20).state == "interrupted"
    with pytest.raises(JobError, match="its process ended"):
        job.result()
    monkeypatch.undo()
    assert job.resume().result(30).converged


def test_own_loss_runs_in_this_process(client):
    @dataclass(frozen=True)
    class LogCosh(Loss):
        name: ClassVar[str] = "test-log-cosh"
        scale: float = 1.0

        def value(self, z, y):
            return np.logaddexp(z - y, y - z) - np.log(2)

        def gradient(self, z, y):
            return np.tanh(z - y)

        def hessian(self, z, y):
            return 1 - np.tanh(z - y) ** 2

    register_loss(LogCosh)
    try:
        rng = np.random.default_rng(0)
        X = rng.standard_normal((300, 4))
        y = X @ [1.0, -2.0, 0.5, 0.0]
        job = client.submit((X, y), loss=LogCosh(scale=2.0), l2=1e-6)
        assert background.thread_runs(client.storage, job.id) or job.status().final
        np.testing.assert_allclose(job.result(30).coef_, [1.0, -2.0, 0.5, 0.0], atol=1e-3)
    finally:
        LOSSES.pop("test-log-cosh")


def test_one_job_is_not_run_twice(client, slow_arrays):
    @dataclass(frozen=True)
    class Half(LOSSES["logistic"]):
        name: ClassVar[str] = "test-half"

    register_loss(Half)
    try:
        job = client.submit(slow_arrays, loss="test-half", **FOREVER)
        other = Client(client.storage.root).job(job.id)
        until(lambda: job.status().state == "running")
        with pytest.raises(JobError, match="runs already"):
            other.resume()
        with pytest.raises(JobError, match="runs already"):
            background.start_thread(client.storage, job.id)
        job.cancel()
        assert job.wait(20).state == "cancelled"
        until(lambda: not any(t.name.startswith("overcast-job") for t in threading.enumerate()))
    finally:
        LOSSES.pop("test-half")


@pytest.mark.usefixtures("profile")
def test_start_from_an_earlier_job(arrays):
    client = Client()
    first = client.submit(arrays, loss="logistic", l2=1e-3, wait=True)
    result = client.solve(arrays, loss="logistic", l2=1e-3, start=first)
    assert result.n_iter_ <= 1
    assert client.solve(arrays, loss="logistic", l2=1e-3, start=first.id, id="third-one").job == "third-one"


@pytest.mark.usefixtures("profile")
def test_arrays_of_all_kinds(arrays):
    X, y = arrays
    client = Client()
    expected = client.solve((X, y), loss="logistic", l2=1e-3, tol=1e-9).coef_
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(8)])
    for source in (sparse.csr_array(X), frame, X.tolist()):
        found = client.solve((source, y), loss="logistic", l2=1e-3, tol=1e-9).coef_
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    text = np.where(y > 0, "yes", "no")
    result = client.solve((frame, text), loss="logistic", l2=1e-3, class_weight={"yes": np.float64(2)})
    assert result.classes_ == ("no", "yes")
    assert result.features == tuple(frame.columns)
    weighted = client.solve((X, y, np.full(600, 2.0)), loss="logistic", l2=1e-3, tol=1e-9, class_weight=[1.0, 1.0])
    np.testing.assert_allclose(weighted.coef_, expected, rtol=1e-6)


@pytest.mark.usefixtures("profile")
def test_data_by_path(libsvm, table):
    client = Client()
    report = client.import_data(libsvm)
    assert report.data.name == "two"
    assert client.solve("two", loss="logistic", l2=1e-2).converged
    assert client.solve(libsvm, loss="logistic", l2=1e-2).converged  # not imported again
    with libsvm.open("a") as file:
        file.write("1 1:3\n")
    with pytest.raises(InputError, match="other bytes"):
        client.solve(libsvm, loss="logistic", l2=1e-2)
    client.import_data(libsvm, replace=True)
    assert client.solve(libsvm, loss="logistic", l2=1e-2).converged
    client.import_data(table, "things", one_hot=["colour"], weight="weight")
    assert client.data() == ("things", "two")
    client.delete_data("two")
    assert client.data() == ("things",)
    with pytest.raises(InputError, match="give the data a name"):
        client.import_data(np.ones((2, 2)), target=[0, 1])


@pytest.mark.usefixtures("profile")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"loss": "logstic"}, "did you mean 'logistic'"),
        ({"l2": -1}, "l2"),
        ({"solver": "magic"}, "solver"),
        ({"tolerance": 1}, "tolerance"),
        ({"tol": "small"}, "tol must be a finite number"),
        ({"max_iter": 2.5}, "max_iter must be a whole number"),
        ({"intercept": "yes"}, "intercept"),
        ({"workers": 0}, "workers"),
        ({"policy": "hope"}, "policy"),
        ({"start": "nothing"}, "nothing"),
        ({"start": 5}, "start must be a job or the id of one, not 5"),
        ({"id": "A"}, "bad job id"),
        ({"class_weight": {"7": 1}}, "class"),
        ({"class_weight": [1, 2, 3]}, "class_weight"),
    ],
)
def test_bad_submissions_store_nothing(arrays, change, says):
    client = Client()
    with pytest.raises((InputError, JobMissingError), match=says):
        client.submit(arrays, **({"loss": "logistic"} | change))
    assert client.storage.list("data") == []
    assert client.storage.list("jobs") == []


@pytest.mark.parametrize(
    ("method", "own"),
    [
        (Client.submit, {"wait"}),
        (Client.solve, {"watch"}),
        (CloudClient.submit, {"wait", "max_cost", "deadline", "profile"}),
        (CloudClient.quote, {"max_cost"}),
    ],
)
def test_signatures_say_all_arguments(method, own):
    shared = inspect.signature(ask).parameters
    shown = inspect.signature(method).parameters
    assert list(shown)[:2] == ["self", "data"]
    assert set(shown) - {"self"} == set(shared) | own
    assert shown["l2"] == shared["l2"]


@pytest.mark.usefixtures("profile")
@pytest.mark.parametrize("data", [np.ones((3, 2)), 5, (1,), "unknown", Path("no/such.csv")])
def test_data_that_is_none(data):
    with pytest.raises(InputError):
        Client().solve(data, loss="squared")


def test_jobs_by_beginning(client, arrays):
    for name in ("aaaa-1", "aaaa-2"):
        client.solve(arrays, loss="logistic", l2=1e-2, id=name)
    with pytest.raises(InputError, match="2 jobs begin with 'aaaa'"):
        client.job("aaaa")
    with pytest.raises(JobMissingError, match="no job 'zzzz'"):
        client.job("zzzz")
    assert client.job("aaaa-2").result().job == "aaaa-2"
