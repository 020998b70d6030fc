"""`Client.map`: users' functions on workers."""

import numpy as np
import pytest

import overcast
from coordinator.errors import CancelledError, CodeRefusedError, InputError, ItemError, JobError
from coordinator.jobs import JobSpec
from overcast.client import Client


@pytest.fixture(params=["files", "memory"])
def client(request, tmp_path):
    return Client(tmp_path / "store" if request.param == "files" else None, allow_code=True)


def test_results_in_order(client):
    seen = []
    assert client.map(lambda x: x**2, range(20), workers=3, watch=seen.append) == [x**2 for x in range(20)]
    assert [(row["done"], row["items"]) for row in seen] == [(20, 20)]


def test_a_map_is_a_job(client):
    client.map(np.sum, [np.ones(3), np.ones(4)], id="sums")
    job = client.job("sums")
    assert job.status().state == "done"
    assert job.outputs() == [3.0, 4.0]
    assert len(job.tasks()) == 2
    assert job.spec.problem["function"] == "sum"
    with pytest.raises(JobError, match=r"outputs\(\) has its results"):
        job.result()
    job.delete()
    assert client.storage.list("jobs") == []


def test_exceptions_name_their_item_and_end_the_job(client):
    with pytest.raises(ItemError, match=r"^item 2: ZeroDivisionError: ") as caught:
        client.map(lambda x: 1 / (2 - x), range(5), id="inverse", retries=0)
    assert caught.value.index == 2
    assert client.job("inverse").status().state == "failed"
    with pytest.raises(ItemError, match=r"^item 2: ZeroDivisionError"):
        client.job("inverse").outputs()


def test_code_needs_leave(tmp_path):
    client = Client(tmp_path / "store")
    with pytest.raises(CodeRefusedError, match=r"Client\(allow_code=True\)"):
        client.map(str, [1], id="refused")
    job = Client(tmp_path / "store", allow_code=True).job("refused")
    assert job.resume(wait=True).outputs() == ["1"]


@pytest.mark.e2e
def test_a_map_goes_on_in_the_background(tmp_path):
    with pytest.raises(CodeRefusedError):
        Client(tmp_path / "store").map(str, [1, 2], id="refused")
    job = Client(tmp_path / "store", allow_code=True).job("refused")
    assert job.resume().outputs(timeout=60) == ["1", "2"]


def test_pickled_results_take_trust(client):
    assert client.map(lambda x: {x}, [1], trust_results=True, id="sets") == [{1}]
    with pytest.raises(InputError, match="trust_results=True"):
        client.job("sets").outputs()
    with pytest.raises(ItemError, match="item 0: the result cannot travel"):
        client.map(lambda x: {x}, [1])


def test_a_cancelled_map_says_so(client):
    def call(x):
        client.job("long").cancel()
        return x

    with pytest.raises(CancelledError, match="is cancelled: cancelled; results of 0 of 50 items are kept"):
        client.map(call_through(call), range(50), id="long", workers=1)
    assert client.job("long").status().state == "cancelled"


def call_through(fn):
    """A function that travels by name, so that it may hold what cannot."""
    overcast._test_call = fn
    return _call


def _call(x):
    import time

    time.sleep(0.05)  # until the cancellation is looked for
    return overcast._test_call(x)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"executor": "lithop"}, "unknown executor 'lithop': did you mean 'lithops'"),
        ({"policy": "hope"}, "policy must be one of"),
        ({"workers": 0}, "workers must be >= 1"),
        ({"retries": -1}, "retries must be from 0"),
        ({"id": "No"}, "bad job id"),
    ],
)
def test_what_cannot_be_used_is_refused(client, options, said):
    with pytest.raises(InputError, match=said):
        client.map(str, [1], **options)
    assert client.storage.list("jobs") == []


def test_lithops_needs_a_store_that_workers_reach():
    with pytest.raises(InputError, match="a store on disk, or in a bucket"):
        Client(allow_code=True).map(str, [1], executor="lithops")


def test_solves_have_no_outputs(client):
    client._jobs.create(JobSpec("a-solve", "data", {"loss": "logistic"}, "newton"))
    with pytest.raises(JobError, match=r"is a solve: result\(\)"):
        client.job("a-solve").outputs()


def test_losses_made_here_do_not_travel(folder, arrays):
    from coordinator.losses import LOSSES, Logistic

    class Own(Logistic):
        name = "own-for-test"

    LOSSES[Own.name] = Own
    try:
        with pytest.raises(InputError, match="known in this process only"):
            Client(folder).solve(arrays, loss="own-for-test", executor="lithops")
    finally:
        del LOSSES[Own.name]


def test_stores_in_buckets(s3):
    client = Client(f"s3://{s3.bucket}", allow_code=True)
    assert client.map(lambda x: x + 1, range(3)) == [1, 2, 3]
    client.storage.client.close()


def test_the_command_line_knows_maps(cli, folder, monkeypatch):
    client = Client(folder, allow_code=True)
    client.map(str, range(3), id="done-map")
    with pytest.raises(ItemError):
        client.map(lambda x: 1 / x, range(3), id="failed-map")
    with pytest.raises(CodeRefusedError):
        Client(folder).map(str, range(3), id="other-map")
    ran = cli("jobs", "wait", "done-map")
    assert (ran.code, ran.out.splitlines()[-1].split()) == (0, ["message", "3", "results"])
    ran = cli("jobs", "wait", "failed-map", "--json")
    assert (ran.code, '"item 0: ZeroDivisionError: division by zero"' in ran.out) == (1, True)
    assert "done-map" in cli("jobs").out
    assert "function   str" in cli("jobs", "show", "done-map").out
    for words in (("result", "done-map"), ("report", "done-map")):
        ran = cli(*words)
        assert (ran.code in {1, 2}, "maps a function" in ran.err, ran.err.count("\n")) == (True, True, 1)
    monkeypatch.setenv("OVERCAST_ALLOW_CODE", "1")
    assert cli("jobs", "resume", "failed-map").code == 0
    assert client.job("failed-map").wait(60).state == "failed"
    client.job("other-map").reopen()
    assert cli("solve", "--resume", "other-map").code == 0
    assert client.job("other-map").outputs() == ["0", "1", "2"]
