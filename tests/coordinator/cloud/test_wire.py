"""What travels keeps its bits and its memory order; what is malformed is refused."""

import json

import numpy as np
import pytest

from coordinator.cloud import wire
from coordinator.cloud.prices import prices
from coordinator.cloud.wire import Request
from coordinator.errors import InputError, StorageError
from coordinator.tasks import Report, Task

TASK = Task("glm.weigh", "jobs/j/o/1", ("data/a/b",), 3, {"w": "jobs/j/w"}, {"problem": {"loss": "logistic"}})


def test_results_keep_bits_and_order():
    rng = np.random.default_rng(0)
    result = (
        np.array(1.5),
        np.zeros(0),
        rng.standard_normal((4, 3)),
        np.asfortranarray(rng.standard_normal((4, 3))),
        rng.standard_normal((2, 3, 4)).T,
        np.arange(5, dtype=np.int32)[::2],
        np.array([np.nan, np.inf, -0.0, 5e-324]),
    )
    found = wire.unpack(wire.from_text(wire.to_text(wire.pack(result))))
    for a, b in zip(result, found, strict=True):
        assert a.tobytes() == b.tobytes()
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert (not a.flags.f_contiguous) or b.flags.f_contiguous


def test_a_report_travels_in_the_header():
    report = Report(cold=True, hits=3, get=0.25, cost=1e-9)
    data = wire.pack((np.zeros(2),), report)
    assert wire.packed_report(data) == report
    assert wire.packed_report(wire.pack((np.zeros(2),))) is None


@pytest.mark.parametrize("raw", [None, 1, [], {"x": 1}, {"hits": "3"}, {"cost": None}])
def test_what_is_no_report(raw):
    assert wire.report_from(raw) is None


def test_what_is_no_result():
    with pytest.raises(StorageError, match="not base64"):
        wire.from_text("$")
    with pytest.raises(StorageError, match="not base64"):
        wire.from_text(None)
    with pytest.raises(StorageError, match="no array header"):
        wire.unpack(b"abc")
    from coordinator import arrays as codec

    with pytest.raises(StorageError, match="not a task's result"):
        wire.unpack(codec.encode({"x": np.zeros(1)}))


def test_requests_come_back():
    request = Request(TASK, wire.stored_key(TASK), "always", 3, marked=True)
    assert Request.from_event(json.loads(request.to_json())) == request


def test_keys_say_all_that_a_result_depends_on():
    from dataclasses import replace

    others = [
        replace(TASK, kernel="glm.evaluate"),
        replace(TASK, blocks=("data/a/c",)),
        replace(TASK, inputs={"w": "jobs/j/v"}),
        replace(TASK, params={"problem": {"loss": "squared"}}),
        replace(TASK, n_features=4),
    ]
    keys = {wire.stored_key(task) for task in [TASK, *others]}
    assert len(keys) == 6
    assert all(key.startswith("jobs/j/o/1.") for key in keys)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "data/x"}, "results go under jobs/"),
        ({"key": "jobs/../x"}, "bad storage key"),
        ({"store": "never"}, "store is 'large' or 'always'"),
        ({"attempt": 0}, "attempt a number from 1"),
        ({"attempt": True}, "attempt must be of type int"),
        ({"other": 1}, "exactly the fields"),
        ({"task": {}}, "not a task"),
    ],
)
def test_what_is_no_request(change, said):
    event = json.loads(Request(TASK, wire.stored_key(TASK)).to_json())
    with pytest.raises(InputError, match=said):
        Request.from_event(event | change)


def test_prices():
    found = prices("x86_64")
    # 1 GB for a second, one request, ten GETs and a PUT, from AWS's list
    assert found.call(1024, 1.0, reads=10, writes=1) == pytest.approx(0.0000166667 + 2e-7 + 10 * 4e-7 + 5e-6, rel=1e-12)
    assert found.call(1024, 0.0001) == found.call(1024, 0.001)  # billed by the millisecond
    assert prices("arm64").gb_second == pytest.approx(0.8 * found.gb_second, rel=1e-4)
    assert found.date[:2] == "20"
