"""The straggler logic alone: times are numbers, faults are tables, nothing sleeps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.phases import Outcome, Phase, PhaseState, Speculate
from coordinator.tasks import Task
from sketches import GroupQuorum, ProductCode, Quorum, Replication, Uncoded

PRODUCT = ProductCode.for_blocks(6)
CODES = {
    "uncoded": Uncoded(5),
    "quorum": Quorum(3, 5),
    "groups": GroupQuorum(2, ((0, 3), (1, 4), (2, 5))),
    "replication": Replication(3, 2),
    "product": PRODUCT,
}


def value(code, i):
    """What task i returns: numbers that a product code's parities, or copies, agree with."""
    if isinstance(code, Replication):
        i %= code.n_blocks
    if not isinstance(code, ProductCode):
        return (np.array([i, 10.0 * i]),)
    blocks = [np.array([b + 1.0, b * b]) for b in range(code.n_blocks)]
    if i < code.n_blocks:
        return (blocks[i],)
    return (sum(blocks[b] for b in code.parity_members(i)),)


def make(code, policy=None, **options):
    tasks = [Task("any", f"out/{i}") for i in range(code.n_tasks)]
    return PhaseState(Phase("toy", tasks, code), policy, **options)


def ok(launch):
    return Outcome(launch, (np.array(float(launch.index)),))


def bad(launch, error="killed", **kind):
    return Outcome(launch, error=error, **kind)


def same(found, expected):
    return len(found) == len(expected) and all(
        len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
        for a, b in zip(found, expected, strict=True)
    )


def test_starts_every_task_once():
    state = make(Uncoded(3))
    launches = state.start(0.0)
    assert [(n.phase, n.index, n.attempt, n.task.output) for n in launches] == [
        ("toy", i, 1, f"out/{i}") for i in range(3)
    ]
    assert state.attempts == {0: 1, 1: 1, 2: 1}
    assert not state.done
    assert state.stuck is None


def test_retries_until_the_attempts_are_used_up():
    state = make(Uncoded(2), max_attempts=3)
    first, other = state.start(0.0)
    assert state.record(ok(other), 1.0) == []
    [second] = state.record(bad(first, "one"), 1.0)
    assert (second.index, second.attempt) == (0, 2)
    assert state.stuck is None
    [third] = state.record(bad(second, "two"), 2.0)
    assert (third.index, third.attempt) == (0, 3)
    assert state.record(bad(third, "three"), 3.0) == []
    assert state.attempts == {0: 3, 1: 1}
    assert not state.done
    assert state.stuck == "phase 'toy' lost 1 of 2 tasks: three"


def test_one_attempt_means_no_retry():
    state = make(Uncoded(1), max_attempts=1)
    [launch] = state.start(0.0)
    assert state.record(Outcome(launch), 1.0) == []
    assert state.stuck == "phase 'toy' lost 1 of 1 tasks: it ended without a result"


def test_a_lost_task_is_no_loss_where_the_code_decodes():
    state = make(Quorum(2, 3), max_attempts=1)
    a, b, c = state.start(0.0)
    state.record(bad(a), 1.0)
    state.record(ok(b), 1.0)
    assert not state.done
    assert state.stuck is None  # c still runs
    state.record(ok(c), 1.0)
    assert state.done
    assert state.stuck is None
    assert [float(x) for (x,) in state.decode()] == [1.0, 2.0]


def test_a_fatal_error_ends_the_phase_at_once_and_for_good():
    state = make(Quorum(1, 2))
    a, b = state.start(0.0)
    assert state.record(bad(a, "the data are wrong", retry=False), 1.0) == []
    assert state.stuck == "the data are wrong"
    assert state.record(ok(b), 1.0) == []
    assert not state.done
    assert state.stuck == "the data are wrong"
    assert state.backups(100.0) == []


def test_an_error_after_the_end_is_late():
    state = make(Quorum(1, 2))
    a, b = state.start(0.0)
    state.record(ok(a), 1.0)
    assert state.record(bad(b, "too late", retry=False), 1.0) == []
    assert state.done
    assert state.stuck is None


def test_late_and_duplicate_outcomes_change_nothing():
    state = make(Uncoded(2))
    a, b = state.start(0.0)
    [again] = state.record(bad(a), 1.0)
    assert state.record(bad(a), 1.5) == []  # the same news twice
    assert state.record(Outcome(a, (np.array(7.0),)), 1.6) == []  # an attempt ends once only
    assert state.attempts == {0: 2, 1: 1}
    state.record(ok(again), 2.0)
    kept = state.results[0]
    state.record(Outcome(again, (np.array(9.0),)), 3.0)
    assert state.results[0] is kept
    state.record(ok(b), 3.0)
    before = dict(state.results)
    assert state.record(ok(b), 4.0) == []
    assert state.results == before


def test_the_second_copy_to_end_is_late():
    state = make(Uncoded(2), Speculate(share=0.5, least=0.0))
    a, b = state.start(0.0)
    state.record(ok(b), 1.0)
    [copy] = state.backups(10.0)
    assert (copy.index, copy.attempt) == (0, 2)
    assert state.backups(99.0) == []  # two copies are enough
    state.record(Outcome(copy, (np.array(1.0),)), 11.0)
    state.record(Outcome(a, (np.array(2.0),)), 12.0)
    assert float(state.results[0][0]) == 1.0


def test_a_failed_copy_is_not_replaced_while_the_other_runs():
    state = make(Uncoded(2), Speculate(least=0.0), max_attempts=3)
    a, b = state.start(0.0)
    state.record(ok(b), 1.0)
    [copy] = state.backups(10.0)
    assert state.record(bad(copy), 11.0) == []
    assert state.stuck is None
    [third] = state.record(bad(a), 12.0)
    assert third.attempt == 3
    assert state.record(bad(third), 13.0) == []
    assert state.stuck is not None


def test_backups_count_as_attempts():
    state = make(Uncoded(2), Speculate(least=0.0), max_attempts=1)
    _, b = state.start(0.0)
    state.record(ok(b), 1.0)
    assert state.backups(100.0) == []


def test_the_age_of_a_retry_counts_from_its_launch():
    state = make(Uncoded(2), Speculate(least=0.0), max_attempts=9)
    a, b = state.start(0.0)
    state.record(ok(b), 1.0)
    [again] = state.record(bad(a), 50.0)
    assert state.backups(51.0) == []
    [copy] = state.backups(52.0)
    assert copy.attempt == 3
    state.record(ok(again), 53.0)
    assert state.done


@pytest.mark.parametrize(
    ("age", "straggles"), [(1.5, False), (np.nextafter(1.5, 2), True), (0.2, False), (np.nextafter(0.0, 1), False)]
)
def test_speculate_at_the_limit(age, straggles):
    policy = Speculate(factor=1.5, quantile=0.9, share=0.5, least=0.25)
    assert policy.backups({7: age}, [1.0]) == ([7] if straggles else [])


def test_speculate_never_before_least():
    policy = Speculate(factor=1.5, least=0.25)
    assert policy.backups({1: 0.25, 2: 0.26}, [1e-3, 1e-3]) == [2]


def test_speculate_waits_for_a_share():
    policy = Speculate(share=0.5, least=0.0)
    running = dict.fromkeys(range(4), 100.0)
    assert policy.backups(running, []) == []
    assert policy.backups(running, [1.0] * 3) == []
    assert policy.backups(running, [1.0] * 4) == [0, 1, 2, 3]


def test_speculate_takes_the_quantile():
    policy = Speculate(factor=1.0, quantile=0.9, share=0.0, least=0.0)
    finished = [float(i) for i in range(20, 0, -1)]  # unsorted: p90 of 1..20 is the entry at 18
    assert policy.backups({0: 19.0}, finished) == []
    assert policy.backups({0: 19.1}, finished) == [0]
    assert Speculate(quantile=1.0, factor=1.0, least=0.0).backups({0: 20.5}, finished) == [0]


def test_without_a_policy_nothing_is_duplicated():
    state = make(Uncoded(8))
    for launch in state.start(0.0)[:7]:
        state.record(ok(launch), 1e-9)
    assert state.backups(1e9) == []


def test_replay_runs_and_uses_only_what_was_recorded():
    state = make(Quorum(2, 4), only=frozenset({3, 1}))
    launches = state.start(0.0)
    assert [n.index for n in launches] == [1, 3]
    state.record(ok(launches[1]), 1.0)
    assert not state.done
    state.record(ok(launches[0]), 1.0)
    assert state.done
    assert [float(x) for (x,) in state.decode()] == [1.0, 3.0]


def test_replay_does_not_make_do_with_fewer():
    state = make(Quorum(1, 4), only=frozenset({0, 2}), max_attempts=1)
    a, b = state.start(0.0)
    state.record(ok(a), 1.0)
    assert not state.done
    state.record(bad(b), 1.0)
    assert state.stuck == "phase 'toy' lost 1 of 4 tasks: killed"


@given(st.sampled_from(sorted(CODES)), st.data())
def test_any_order_of_faults_that_attempts_allow_gives_the_same(name, data):
    """At most max_attempts - 1 failures a task, in any order; exchangeable codes decode to what arrived, in order."""
    code = CODES[name]
    attempts = data.draw(st.integers(1, 4))
    faults = [data.draw(st.integers(0, attempts - 1)) for _ in range(code.n_tasks)]
    state = make(code, max_attempts=attempts)
    queue, launched = state.start(0.0), code.n_tasks
    while queue:
        launch = queue.pop(data.draw(st.integers(0, len(queue) - 1)))
        failed = launch.attempt <= faults[launch.index]
        outcome = bad(launch) if failed else Outcome(launch, value(code, launch.index))
        again = state.record(outcome, 1.0)
        assert len(again) == (failed and not state.done)
        launched += len(again)
        queue += again
        assert state.stuck is None
    assert state.done
    assert sum(state.attempts.values()) == launched
    arrived = {i: value(code, i) for i in state.results}
    assert same(state.decode(), code.decode(arrived))
    if not code.exchangeable:
        whole = code.decode({i: value(code, i) for i in range(code.n_tasks)})
        assert same(state.decode(), whole)  # small whole numbers: parities decode exactly


@given(st.sampled_from(sorted(CODES)), st.data())
def test_ends_either_done_or_stuck(name, data):
    """Anything may happen in any order: time-outs, duplicates, fatal errors, backups. It ends, and in one way."""
    code = CODES[name]
    state = make(code, Speculate(share=0.0, least=0.0), max_attempts=data.draw(st.integers(1, 3)))
    live, past, now, ended = state.start(0.0), [], 0.0, None
    while live:
        now += data.draw(st.sampled_from([0.0, 1.0, 10.0]))
        kind = data.draw(st.sampled_from(["ok", "ok", "fail", "fail", "fatal", "again", "backups"]))
        if kind == "backups":
            live += state.backups(now)
            continue
        if kind == "again" and past:
            outcome = data.draw(st.sampled_from(past))
            before = (dict(state.attempts), set(state.results), state.stuck, state.done)
            assert state.record(outcome, now) == []
            assert before == (dict(state.attempts), set(state.results), state.stuck, state.done)
            continue
        launch = live.pop(data.draw(st.integers(0, len(live) - 1)))
        if kind == "fatal":
            outcome = bad(launch, "fatal", retry=False)
        else:
            outcome = bad(launch) if kind == "fail" else Outcome(launch, value(code, launch.index))
        past.append(outcome)
        live += state.record(outcome, now)
        assert max(state.attempts.values()) <= state.max_attempts
        assert not (state.done and state.stuck)
        verdict = "done" if state.done else state.stuck
        assert ended in {None, verdict}  # an end is an end
        ended = verdict
    assert ended is not None
    if state.done:
        assert same(state.decode(), code.decode({i: value(code, i) for i in state.results}))
    else:
        assert "\n" not in state.stuck
