"""Functions mapped over items by the AWS executor, on a Lambda in this process."""

import pytest

from coordinator.errors import CodeRefusedError, ItemError
from coordinator.executors.aws import LambdaExecutor
from coordinator.jobs import JobSpec, JobStore
from coordinator.mapping import create_map, load_outputs, run_map
from coordinator.runtime import Runtime


def run(counted, calls, fn, items, *, pickled=False, **options):
    store = JobStore(counted)
    spec = create_map(store, JobSpec("map-one", "", {}, "map"), fn, items, pickled=pickled, attempts=2)
    with LambdaExecutor(calls, ("w",), counted, **options) as executor:
        ctx = Runtime(executor, counted)
        run_map(store, spec, ctx, lambda **changes: None, root="jobs/map-one/scratch/")
    return load_outputs(counted, spec, trust=pickled)


@pytest.fixture
def allowed(monkeypatch):
    monkeypatch.setenv("OVERCAST_ALLOW_CODE", "1")


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("mode", ["sync", "event"])
def test_results_in_order_in_spite_of_faults(fake, counted, mode):
    calls = fake({})
    assert run(counted, calls, lambda x: [x, x / 2], range(30), mode=mode, patience=5.0) == [
        [x, x / 2] for x in range(30)
    ]
    assert all(wait == (mode == "sync") for *_, wait in calls.calls)


@pytest.mark.usefixtures("allowed")
def test_calls_that_are_lost_are_made_again(fake, counted):
    calls = fake({0: ["crash", "429", "ok"]})  # the table is by the parameter i, which these tasks have not: all are 0
    assert run(counted, calls, str, range(4)) == ["0", "1", "2", "3"]
    assert len(calls.calls) == 6


@pytest.mark.usefixtures("allowed")
def test_exceptions_name_their_item(fake, counted):
    with pytest.raises(ItemError, match=r"^item 0: ZeroDivisionError: ") as caught:
        run(counted, fake(), lambda x: 1 // x, range(3))
    assert caught.value.index == 0


@pytest.mark.usefixtures("allowed")
def test_pickled_results(fake, counted):
    assert run(counted, fake(), lambda x: {x}, [1, 2], pickled=True) == [{1}, {2}]


def test_not_where_code_is_not_allowed(fake, counted, monkeypatch):
    monkeypatch.delenv("OVERCAST_ALLOW_CODE", raising=False)
    with pytest.raises(CodeRefusedError, match="OVERCAST_ALLOW_CODE=1"):
        run(counted, fake(), lambda x: x, range(3))
