import threading

import numpy as np
import pytest

from coordinator.errors import InputError
from coordinator.executors.local import LocalExecutor, default_workers
from coordinator.phases import Launch
from coordinator.storage import MemoryStorage
from coordinator.tasks import Task, Worker, kernel

GATES = {}


class Gate:
    """A kernel's call that begins, and ends when it is told to."""

    def __init__(self):
        self.begun, self.go, self.ended = threading.Event(), threading.Event(), threading.Event()


@kernel("test.local")
def gated(work, *, i, gate=None, error=None):
    if gate is not None:
        GATES[gate].begun.set()
        assert GATES[gate].go.wait(20)
        GATES[gate].ended.set()
    if error == "interrupt":
        raise KeyboardInterrupt
    if error:
        raise ValueError(error)
    return (np.array(i), np.array(threading.get_ident()))


def launch(i, attempt=1, **params):
    return Launch("toy", i, attempt, Task("test.local", f"out/{i}", params={"i": i, **params}))


@pytest.fixture
def gates():
    GATES.clear()
    GATES["a"], GATES["b"] = Gate(), Gate()
    yield GATES
    for gate in GATES.values():
        gate.go.set()


def drain(executor, n):
    out = []
    for _ in range(2000):
        out += executor.poll(0.01)
        if len(out) >= n:
            return out
    raise AssertionError(f"{len(out)} of {n} outcomes")


def test_every_launch_has_one_outcome():
    with LocalExecutor(Worker(MemoryStorage()), 3) as executor:
        executor.submit([launch(i) for i in range(200)])
        found = drain(executor, 200)
        assert sorted(o.launch.index for o in found) == list(range(200))
        assert all(int(o.result[0]) == o.launch.index for o in found)
        assert executor.poll(0.0) == []


def test_one_worker_is_the_caller():
    with LocalExecutor(Worker(MemoryStorage()), 1) as executor:
        executor.submit([launch(i) for i in range(5)])
        found = drain(executor, 5)
    assert [o.launch.index for o in found] == [0, 1, 2, 3, 4]
    assert {int(o.result[1]) for o in found} == {threading.get_ident()}
    assert {o.worker for o in found} == {"0"}


def test_a_poll_without_work_returns():
    with LocalExecutor(Worker(MemoryStorage()), 2) as executor:
        assert executor.poll(0.0) == []
        assert executor.poll(5.0) == []  # at once: nothing is under way


def test_failures_are_outcomes():
    with LocalExecutor(Worker(MemoryStorage()), 2) as executor:
        executor.submit([launch(0, error="broken"), launch(1)])
        by = {o.launch.index: o for o in drain(executor, 2)}
    assert by[0].result is None
    assert by[0].error == "test.local: ValueError: broken"
    assert by[0].retry
    assert by[1].error is None
    assert by[1].started <= by[1].ended


def test_cancel_drops_what_waits_and_what_runs(gates):
    with LocalExecutor(Worker(MemoryStorage()), 2) as executor:
        # the thread takes one and waits in it; the caller has not polled yet
        executor.submit([launch(0, gate="a"), launch(1, gate="a")])
        assert gates["a"].begun.wait(20)
        executor.cancel()
        gates["a"].go.set()
        assert gates["a"].ended.wait(20)
        executor.submit([launch(2), launch(3)])
        found = drain(executor, 2)
        assert sorted(o.launch.index for o in found) == [2, 3]
        assert executor.poll(0.0) == []


def test_close_waits_for_what_runs_and_drops_the_rest(gates):
    executor = LocalExecutor(Worker(MemoryStorage()), 2)
    executor.submit([launch(0, gate="a"), launch(1, gate="b"), launch(2)])
    assert gates["a"].begun.wait(20)
    closer = threading.Thread(target=executor.close)
    closer.start()
    gates["a"].go.set()
    closer.join(20)
    assert not closer.is_alive()
    assert gates["a"].ended.is_set()
    assert not gates["b"].begun.is_set()
    assert not any(thread.is_alive() for thread in executor._threads)
    assert executor.poll(0.0) == []
    executor.close()  # twice is harmless


def test_an_interrupt_in_the_callers_task_is_the_callers():
    with LocalExecutor(Worker(MemoryStorage()), 1) as executor:
        executor.submit([launch(0, error="interrupt"), launch(1)])
        with pytest.raises(KeyboardInterrupt):
            executor.poll(0.0)
        executor.cancel()
        executor.submit([launch(2)])
        assert [o.launch.index for o in drain(executor, 1)] == [2]


def test_the_poller_takes_what_comes_while_a_thread_is_busy(gates):
    with LocalExecutor(Worker(MemoryStorage()), 2) as executor:
        executor.submit([launch(0, gate="a"), launch(1)])
        assert gates["a"].begun.wait(20)
        found = drain(executor, 1)
        executor.submit([launch(2)])
        found += drain(executor, 1)
        assert [o.launch.index for o in found] == [1, 2]
        gates["a"].go.set()
        assert [o.launch.index for o in drain(executor, 1)] == [0]


@pytest.mark.parametrize("workers", [0, -1])
def test_refuses_no_workers(workers):
    with pytest.raises(InputError, match="workers must be >= 1"):
        LocalExecutor(Worker(MemoryStorage()), workers)


def test_default_is_all_cores():
    with LocalExecutor(Worker(MemoryStorage())) as executor:
        assert len(executor._threads) == default_workers() - 1
