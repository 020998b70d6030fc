"""The AWS executor on a Lambda in this process, whose faults are tables and whose clock is at hand."""

import threading
import time

import numpy as np
import pytest

from coordinator.cloud.invoke import Reply
from coordinator.errors import InputError, PhaseError
from coordinator.executors.aws import Congestion, LambdaExecutor
from coordinator.phases import Launch, Phase, Speculate
from coordinator.runtime import Runtime
from coordinator.tasks import Task
from sketches import Quorum, Uncoded

FUNCTIONS = ("w", "w-large", "w-xlarge")


def phase(n, code=None, name="toy#1", **params):
    tasks = [Task("test.cloud", f"jobs/j/s/{name[:-2]}/{i:03d}", params={"i": i, **params}) for i in range(n)]
    return Phase(name, tasks, code or Uncoded(n))


def run(executor, storage, *phases, **options):
    ctx = Runtime(executor, storage, prefix="jobs/j/s", **options)
    return ctx, ctx.run(*phases)


def numbers(results):
    return [float(a[0]) for a, _ in results]


def test_a_phase(fake, counted):
    calls = fake()
    with LambdaExecutor(calls, FUNCTIONS, counted) as executor:
        ctx, [found] = run(executor, counted, phase(50))
    assert numbers(found) == list(range(50))
    assert all(b.flags.f_contiguous and b.shape == (2, 3) and b[1, 2] == 5.0 * i for i, (_, b) in enumerate(found))
    assert counted.list("jobs") == []  # small results came in the answers
    assert {c[0] for c in calls.calls} == {"w"}
    reports = [r.report for r in ctx.records]
    assert all(r.cost > 0 and r.limit == 512 and r.seconds >= r.compute > 0 for r in reports)
    assert any(r.cold for r in reports)


def test_time_of_kernels_with_large_results_counts(fake, counted, monkeypatch):
    monkeypatch.setattr("coordinator.executors.aws.LONG", 0.0)
    calls = fake()
    with LambdaExecutor(calls, FUNCTIONS, counted) as executor:
        run(executor, counted, phase(1, size=600_000))
        run(executor, counted, phase(1))
    assert [wait for *_, wait in calls.calls] == [True, False]


def test_large_results_go_over_storage_once(fake, counted):
    with LambdaExecutor(fake(), FUNCTIONS, counted) as executor:
        ctx, [found] = run(executor, counted, phase(3, size=600_000))
        _, [same] = run(executor, counted, phase(3, size=600_000))
    assert numbers(found) == [0, 1, 2]
    assert found[1][0].size == 600_000
    assert len(counted.list("jobs")) == 3
    assert all(np.array_equal(a, b) for x, y in zip(found, same, strict=True) for a, b in zip(x, y, strict=True))
    assert all(r.report.bytes_out > 4_800_000 for r in ctx.records)


def test_what_is_kept_is_not_computed_again(fake, counted):
    calls = fake()
    with LambdaExecutor(calls, FUNCTIONS, counted, keep=True) as executor:
        run(executor, counted, phase(4))
        assert len(counted.list("jobs")) == 4
        ctx, [found] = run(executor, counted, phase(4))
    assert numbers(found) == [0, 1, 2, 3]
    assert all(r.report.bytes_out == 0 for r in ctx.records)


def test_equal_names_of_other_tasks_are_not_mistaken(fake, counted):
    with LambdaExecutor(fake(), FUNCTIONS, counted, keep=True) as executor:
        run(executor, counted, phase(2, size=3))
        _, [found] = run(executor, counted, phase(2, size=5))
    assert [a.size for a, _ in found] == [5, 5]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("crash", "w: Runtime.ExitError: exit status 3"),
        ("timeout", "w: 2026 x Task timed out after 3.00 seconds"),
        ("lost", "the call of w was lost: reset by peer"),
        ("junk", "w gave no sensible answer"),
        ("oom", "test.cloud ran out of memory in w; w-large is next"),
    ],
)
def test_a_failure_is_an_attempt_of_the_phase(fake, counted, fault, said):
    calls = fake({2: [fault]})
    with LambdaExecutor(calls, FUNCTIONS, counted) as executor:
        ctx, [found] = run(executor, counted, phase(4))
    assert numbers(found) == [0, 1, 2, 3]
    assert [r.fate for r in ctx.records if r.fate != "used"] == [said]
    assert [r.attempt for r in ctx.records if r.index == 2] == [1, 2]
    assert [r.worker for r in ctx.records if r.index == 2][1] == ("w-large" if fault == "oom" else "w")


def test_refusals_slow_down_and_fail_nothing(fake, counted):
    calls = fake({i: ["429"] * (i % 4) for i in range(40)} | {7: ["500", "429"]})
    with LambdaExecutor(calls, FUNCTIONS, counted, limit=16) as executor:
        ctx, [found] = run(executor, counted, phase(40))
        assert executor.throttled == sum(i % 4 for i in range(40)) - 3 + 2
        assert executor._congestion.window < 16
    assert numbers(found) == list(range(40))
    assert {r.fate for r in ctx.records} == {"used"}
    assert {r.attempt for r in ctx.records} == {1}
    assert calls.most <= 16


def test_refusals_of_cancelled_calls_slow_down_nothing(fake, counted):
    calls = fake({0: ["429"]})

    def cancelled(*args, **options):
        executor.cancel()
        return calls(*args, **options)

    with LambdaExecutor(cancelled, FUNCTIONS, counted, limit=16) as executor:
        executor.submit([Launch("toy#1", 0, 1, phase(1).tasks[0])])
        while not executor.throttled:
            time.sleep(0.001)
        assert executor.poll(0.0) == []
        assert executor._congestion.window == 16


def test_refusals_without_end_fail_in_one_line(fake, counted):
    calls = fake({0: ["429"] * 1000})
    with LambdaExecutor(calls, FUNCTIONS, counted, hold=0.2) as executor, pytest.raises(PhaseError) as caught:
        run(executor, counted, phase(1))
    assert str(caught.value) == "w has refused calls for 0 s: Rate Exceeded.; raise its concurrency"


def test_memory_grows_to_the_largest_and_then_fails(fake, counted):
    calls = fake()
    with LambdaExecutor(calls, FUNCTIONS, counted) as executor, pytest.raises(PhaseError) as caught:
        run(executor, counted, phase(1, error="memory"), max_attempts=5)
    assert [c[0] for c in calls.calls] == ["w", "w-large", "w-xlarge"]
    assert "test.cloud needs more memory than w-xlarge, the largest worker, has" in str(caught.value)


def test_a_kernel_that_needed_more_memory_starts_with_it(fake, counted):
    calls = fake({0: ["oom"]})
    with LambdaExecutor(calls, FUNCTIONS, counted) as executor:
        run(executor, counted, phase(1))
        run(executor, counted, phase(1))
    assert [c[0] for c in calls.calls] == ["w", "w-large", "w-large"]


def test_a_kernels_error_is_tried_again_then_told(fake, counted):
    with LambdaExecutor(fake(), FUNCTIONS, counted) as executor, pytest.raises(PhaseError) as caught:
        run(executor, counted, phase(1, error="broken"))
    assert str(caught.value) == "phase 'toy#1' lost 1 of 1 tasks: test.cloud: ValueError: broken"


def test_a_function_that_is_not_there(fake, counted):
    with LambdaExecutor(fake({0: ["404"]}), FUNCTIONS, counted) as executor, pytest.raises(PhaseError) as caught:
        run(executor, counted, phase(1))
    assert str(caught.value) == "cannot call w: Function not found: deploy first, or check OVERCAST_WORKERS"


def test_no_more_calls_than_allowed(fake, counted):
    calls = fake()
    with LambdaExecutor(calls, FUNCTIONS, counted, limit=3) as executor:
        run(executor, counted, phase(60))
    assert calls.most <= 3


def test_stragglers_of_a_phase_do_not_hold_up_the_next(fake, counted):
    go = threading.Event()
    calls = fake()

    def slow(function, payload, **options):
        if b'"i":4' in payload and b"toy#1" not in payload and not go.is_set() and b"/first/" in payload:
            go.wait(20)
        return calls(function, payload, **options)

    with LambdaExecutor(slow, FUNCTIONS, counted, limit=1 + 4) as executor:
        ctx = Runtime(executor, counted)
        [found] = ctx.run(phase(5, Quorum(4, 5), "first#1"))
        assert len(found) == 4
        for i in range(3):
            [found] = ctx.run(phase(5, Quorum(4, 5), "first#2") if i < 2 else phase(5, None, "last#3"))
        go.set()
    assert numbers(found) == [0, 1, 2, 3, 4]


def test_limits_are_checked(counted):
    with pytest.raises(InputError, match="workers must be >= 1"):
        LambdaExecutor(lambda *a, **k: Reply(200, b""), FUNCTIONS, counted, limit=0)


# -- congestion ---------------------------------------------------------------------------------------------------


def test_congestion_halves_once_and_grows_by_one_a_round():
    window = Congestion(100, rest=1.0)
    assert window.allows(99)
    assert not window.allows(100)
    for _ in range(30):
        window.refused(80, now=5.0)  # thirty refusals of one burst
    assert window.window == 40
    window.refused(40, now=6.1)
    assert window.window == 20
    for _ in range(20):
        window.answered()
    assert 20.9 < window.window < 21
    for now in range(10, 30):
        window.refused(3, now=float(now))
    assert window.window == 1
    assert window.allows(0)
    for _ in range(100_000):
        window.answered()
    assert window.window == 100


# -- asynchronous calls -------------------------------------------------------------------------------------------


class Virtual(LambdaExecutor):
    """Its time passes only while nothing happens."""

    def __init__(self, calls, storage, **options):
        self.now = 0.0
        super().__init__(calls, FUNCTIONS, storage, mode="event", clock=lambda: self.now, **options)

    def _rest(self, seconds):
        due = bool(self._queue) and self._queue[0].ready <= self.now
        if self._running or due:
            self._news.wait(0.001)
        else:
            self.now += seconds
            self._work.notify_all()


def test_asynchronous_results_are_found_by_one_list_a_folder(fake, counted):
    calls = fake()
    with Virtual(calls, counted) as executor:
        before = counted.usage.now()
        ctx, [found] = run(executor, counted, phase(30))
    assert numbers(found) == list(range(30))
    assert all(b.flags.f_contiguous for _, b in found)
    assert not any(wait for *_, wait in calls.calls)
    lists = counted.usage.since(before).writes - 60  # a beginning and a result each
    assert 1 <= lists <= 10
    assert all(r.report.cost > 0 and r.report.limit == 512 for r in ctx.records)


def test_looks_become_seldom_and_soon_again(fake, counted):
    looks = []
    calls = fake({0: ["never"]})
    with Virtual(calls, counted, patience=60.0) as executor:
        looking = executor._look
        executor._look = lambda: (looks.append(executor.now), looking())
        run(executor, counted, phase(1))
    gaps = np.diff(looks)[:15]
    assert max(gaps) < 7
    assert min(gaps[-4:]) > 3 > gaps[0]
    assert sum(gap > 3 for gap in gaps) >= 5
    assert len(looks) < 40


def test_calls_that_never_began_are_made_again(fake, counted):
    calls = fake({3: ["never", "never"]})
    with Virtual(calls, counted, patience=20.0) as executor:
        ctx, [found] = run(executor, counted, phase(5))
    assert numbers(found) == [0, 1, 2, 3, 4]
    assert [(r.attempt, r.fate) for r in ctx.records if r.index == 3] == [
        (1, "w did not begin within 20 s"),
        (2, "w did not begin within 20 s"),
        (3, "used"),
    ]


def test_silent_deaths_are_noticed_and_given_more_memory(fake, counted):
    calls = fake({1: ["silent"]})
    with Virtual(calls, counted, longest=30.0) as executor:
        ctx, [found] = run(executor, counted, phase(2))
    assert numbers(found) == [0, 1]
    assert [(r.worker, r.fate) for r in ctx.records if r.index == 1] == [
        ("w", "w began and ended without a word"),
        ("w-large", "used"),
    ]


def test_asynchronous_errors_are_told(fake, counted):
    with Virtual(fake(), counted) as executor, pytest.raises(PhaseError) as caught:
        run(executor, counted, phase(1, error="broken"))
    assert str(caught.value) == "phase 'toy#1' lost 1 of 1 tasks: test.cloud: ValueError: broken"


def test_refused_asynchronous_calls_are_made_again(fake, counted):
    calls = fake({i: ["429"] for i in range(10)})
    with Virtual(calls, counted) as executor:
        _, [found] = run(executor, counted, phase(10))
        assert executor.throttled == 10
    assert numbers(found) == list(range(10))


def test_long_kernels_are_called_asynchronously(fake, counted):
    calls = fake()
    with LambdaExecutor(calls, FUNCTIONS, counted) as executor:
        run(executor, counted, phase(2))
        executor._seconds["test.cloud"] = 31.0
        _, [found] = run(executor, counted, phase(2))
    assert numbers(found) == [0, 1]
    assert [wait for *_, wait in calls.calls] == [True, True, False, False]


def test_backups_overtake(fake, counted):
    calls = fake({2: ["never"]})
    with Virtual(calls, counted, patience=1e6) as executor:
        ctx, [found] = run(executor, counted, phase(8), policy=Speculate(least=0.0))
    assert numbers(found) == list(range(8))
    assert [(r.attempt, r.fate) for r in ctx.records if r.index == 2] == [(2, "used")]


def test_attempts_at_one_task_each_have_an_outcome(fake, counted):
    [task] = phase(1).tasks
    calls = fake({0: ["never", "never"]})
    with Virtual(calls, counted, patience=20.0) as executor:
        executor.submit([Launch("toy#1", 0, 1, task)])
        executor.submit([Launch("toy#1", 0, 2, task)])
        found = [*executor.poll(60.0), *executor.poll(60.0)]
    assert sorted((o.launch.attempt, o.error) for o in found) == [(n, "w did not begin within 20 s") for n in (1, 2)]


def test_calls_that_were_lost_on_the_way_are_not_awaited(fake, counted):
    calls = fake({0: ["lost"]})
    with Virtual(calls, counted, patience=20.0) as executor:
        executor.submit([Launch("toy#1", 0, 1, phase(1).tasks[0])])
        [lost] = executor.poll(60.0)
        assert lost.error == "the call of w was lost: reset by peer"
        assert executor.poll(60.0) == []
        assert executor.now == 0.0
