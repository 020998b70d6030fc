"""The one loop with a clock, on executors whose faults are tables."""

import threading
from collections import deque

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import coordinator.kernels  # noqa: F401  registers kernels
from coordinator.data.blocks import memory_blocks
from coordinator.errors import CancelledError, InputError, KeyMissingError, PhaseError
from coordinator.executors.local import LocalExecutor
from coordinator.phases import Outcome, Phase
from coordinator.problem import problem_from_spec
from coordinator.runtime import BlasThreads, Runtime
from coordinator.solvers.objective import Objective
from coordinator.storage import MemoryStorage
from coordinator.tasks import Task, Worker, kernel
from sketches import ProductCode, Quorum, Replication, Uncoded


@kernel("test.runtime")
def number(work, *, i, raises=None):
    if raises == "input":
        raise InputError("the data are wrong: mend them")
    if raises:
        raise ZeroDivisionError("by nought")
    return (np.array(float(i)),)


def phase(n=4, code=None, name="toy#1", **params):
    tasks = [Task("test.runtime", f"out/{name}/{i}", params={"i": i, **params}) for i in range(n)]
    return Phase(name, tasks, code or Uncoded(n))


class Scripted:
    """Ends one attempt a poll, the newest first; attempts fail by the table {task: [error, error, ...]}.

    An error of None vanishes without an outcome; "!" before it says that a retry is of no use.
    """

    def __init__(self, faults=None):
        self.worker = Worker(MemoryStorage())
        self.faults = faults or {}
        self.queue = deque()
        self.cancelled = 0

    def submit(self, launches):
        self.queue.extend(launches)

    def poll(self, timeout):
        if not self.queue:
            return []
        launch = self.queue.pop()
        errors = self.faults.get(launch.index, [])
        if launch.attempt > len(errors):
            return [Outcome(launch, self.worker.run(launch.task), worker="w")]
        error = errors[launch.attempt - 1]
        return [] if error is None else [Outcome(launch, error=error.lstrip("!"), retry=error[0] != "!", worker="w")]

    def cancel(self):
        self.cancelled += 1
        self.queue.clear()


def numbers(blocks):
    return [float(x) for (x,) in blocks]


def scripted(faults=None, **options):
    executor = Scripted(faults)
    return executor, Runtime(executor, MemoryStorage(), **options)


def test_results_come_in_task_order_whoever_came_first():
    executor, ctx = scripted()
    [found] = ctx.run(phase(6))
    assert numbers(found) == [0, 1, 2, 3, 4, 5]
    assert [r.index for r in ctx.records] == [5, 4, 3, 2, 1, 0]
    assert executor.cancelled == 0
    assert ctx.arrivals == {}


def test_phases_run_together():
    _, ctx = scripted()
    a, b = ctx.run(phase(2, name="a#1"), phase(3, name="b#2"))
    assert numbers(a) == [0, 1]
    assert numbers(b) == [0, 1, 2]
    assert set(ctx.seconds) == {"a", "b"}


def test_failed_attempts_are_tried_again_and_told():
    _, ctx = scripted({2: ["killed", "throttled"], 0: ["killed"]})
    [found] = ctx.run(phase(3))
    assert numbers(found) == [0, 1, 2]
    assert [(r.index, r.attempt, r.fate) for r in ctx.records] == [
        (2, 1, "killed"),
        (2, 2, "throttled"),
        (2, 3, "used"),
        (1, 1, "used"),
        (0, 1, "killed"),
        (0, 2, "used"),
    ]


def test_out_of_attempts():
    executor, ctx = scripted({1: ["one", "two"]}, max_attempts=2)
    with pytest.raises(PhaseError, match=r"^phase 'toy#1' lost 1 of 3 tasks: two$"):
        ctx.run(phase(3))
    assert executor.cancelled == 1
    executor.faults = {}
    [found] = ctx.run(phase(3, name="toy#2"))  # the runtime is none the worse
    assert numbers(found) == [0, 1, 2]


def test_an_error_that_will_come_again_is_not_tried_again():
    _, ctx = scripted({1: ["!the data are wrong"]})
    with pytest.raises(PhaseError, match=r"^the data are wrong$"):
        ctx.run(phase(3))
    assert [r.index for r in ctx.records] == [2, 1]


def test_spare_results_are_recorded_and_replayed():
    _, ctx = scripted({3: ["late"] * 3})
    [found] = ctx.run(phase(5, Quorum(3, 5)))
    assert numbers(found) == [1, 2, 4]
    assert ctx.arrivals == {"toy#1": [1, 2, 4]}
    _, again = scripted(replay=ctx.arrivals)
    [replayed] = again.run(phase(5, Quorum(3, 5)))
    assert numbers(replayed) == numbers(found)
    assert sorted(r.index for r in again.records) == [1, 2, 4]


def test_copies_that_are_not_needed_are_cancelled():
    executor, ctx = scripted()
    [found] = ctx.run(phase(4, Replication(2, 2)))
    assert len(found) == 2
    assert ctx.arrivals == {"toy#1": [2, 3]}
    assert executor.cancelled == 1
    assert not executor.queue


def test_a_reason_to_stop_ends_the_run():
    reasons = iter([None, None, "cancelled"])
    executor, ctx = scripted(stopped=lambda: next(reasons))
    with pytest.raises(CancelledError, match="cancelled"):
        ctx.run(phase(5))
    assert len(ctx.records) == 3
    assert executor.cancelled == 1


def test_inputs_are_kept_for_a_while():
    _, ctx = scripted(prefix="000007")
    keys = [ctx.put(np.array([i])) for i in range(5)]
    assert len(set(keys)) == 5
    assert all(key.startswith("000007/") for key in keys)
    ctx.release(keep=2)
    assert [ctx.scratch.exists(key) for key in keys] == [False, False, False, True, True]
    with pytest.raises(KeyMissingError):
        ctx.scratch.get_arrays(keys[0])


# -- on threads ---------------------------------------------------------------------------------------------------


def test_a_kernel_that_raises_is_tried_again_then_told_in_one_line():
    with LocalExecutor(Worker(MemoryStorage()), 2) as executor:
        ctx = Runtime(executor, MemoryStorage(), max_attempts=3)
        with pytest.raises(PhaseError) as caught:
            ctx.run(phase(1, raises="division"))
    assert str(caught.value) == "phase 'toy#1' lost 1 of 1 tasks: test.runtime: ZeroDivisionError: by nought"
    assert [r.attempt for r in ctx.records] == [1, 2, 3]
    assert {r.fate for r in ctx.records} == {"test.runtime: ZeroDivisionError: by nought"}


def test_an_error_made_on_purpose_is_told_at_once():
    with LocalExecutor(Worker(MemoryStorage()), 1) as executor:
        ctx = Runtime(executor, MemoryStorage())
        with pytest.raises(PhaseError, match=r"^the data are wrong: mend them$"):
            ctx.run(phase(3, raises="input"))
        assert len(ctx.records) == 1
        [found] = ctx.run(phase(2, name="toy#2"))
        assert numbers(found) == [0, 1]


def test_a_record_says_when_and_where():
    with LocalExecutor(Worker(MemoryStorage()), 2) as executor:
        ctx = Runtime(executor, MemoryStorage())
        ctx.run(phase(20))
    assert sorted(r.index for r in ctx.records) == list(range(20))
    assert all(0 <= r.started <= r.ended for r in ctx.records)
    assert {r.worker for r in ctx.records} <= {"0", "1"}


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_the_same_bits_for_any_number_of_workers(loss):
    rng = np.random.default_rng(0)
    classes = {"logistic": (-1.0, 1.0), "softmax": (0.0, 1.0, 2.0)}[loss]
    X = rng.standard_normal((700, 11)).astype(np.float32)
    storage = MemoryStorage()
    data = memory_blocks(storage, "toy", X, rng.choice(classes, 700), rng.random(700), classes, rows_per_block=60)
    problem = problem_from_spec({"loss": loss, "l2": 0.1}, data)
    w = rng.standard_normal(problem.n_parameters)
    laws = [{"kind": "sjlt", "size": 8, "hashes": 2}] * len(data.keys)
    found = []
    for workers in (1, 2, 3):
        scratch = MemoryStorage()
        with LocalExecutor(Worker(storage, scratch), workers) as executor:
            ctx = Runtime(executor, scratch)
            with ctx.session():
                objective = Objective(problem, ctx)
                at = objective.at(w)
                end = objective.at(w * 0.5)
                found.append(
                    [
                        np.array(at.value),
                        at.gradient,
                        objective.product(at, w),
                        objective.diagonal(at),
                        *objective.search(at, end, [0.5, 2.0]),
                        *objective.gram(at),
                        *objective.sketch(at, laws, 1, [2]),
                    ]
                )
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_product_code_decodes_the_same_after_a_replay():
    code = ProductCode.for_blocks(6)
    members = {i: code.parity_members(i) for i in range(6, code.n_tasks)}

    def coded():
        tasks = [Task("test.runtime", f"o/{i}", params={"i": sum(members.get(i, (i,)))}) for i in range(code.n_tasks)]
        return Phase("coded#1", tasks, code)

    _, ctx = scripted({0: ["lost"] * 3, 4: ["lost"] * 3})
    [found] = ctx.run(coded())
    assert numbers(found) == [0, 1, 2, 3, 4, 5]
    _, again = scripted(replay=ctx.arrivals)
    [replayed] = again.run(coded())
    assert all(np.array_equal(a, b) for (a,), (b,) in zip(found, replayed, strict=True))


# -- BLAS threads -------------------------------------------------------------------------------------------------


def blas():
    return [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]


def test_blas_threads_are_restored():
    before = blas()
    _, ctx = scripted()
    with ctx.session():
        assert set(blas()) <= {1}
        with ctx.linalg():
            pass
        assert set(blas()) <= {1}
    assert blas() == before
    assert ctx.seconds["linear algebra"] >= 0


def test_blas_threads_are_restored_after_an_error():
    before = blas()
    _, ctx = scripted({0: ["!no"]})
    with pytest.raises(PhaseError), ctx.session():
        ctx.run(phase(1))
    assert blas() == before


def test_blas_limits_are_counted():
    before = blas()
    threads = BlasThreads()
    inside, leave = threading.Event(), threading.Event()

    def other():
        with threads.limit(1):
            inside.set()
            leave.wait(10)

    runner = threading.Thread(target=other)
    with threads.limit(1):
        runner.start()
        inside.wait(10)
    assert set(blas()) <= {1}  # the other runtime still needs it
    leave.set()
    runner.join()
    assert blas() == before
