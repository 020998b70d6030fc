"""The driver: runs, resumes and ends of jobs, and what is left in the store by each."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from coordinator import driver
from coordinator.data.importing import ImportOptions, import_data
from coordinator.driver import check_spec, class_counts, open_problem, run_job
from coordinator.embedded import NOMINAL
from coordinator.errors import CancelledError, InputError, JobError, JobMissingError
from coordinator.jobs import JobSpec, JobStore
from coordinator.results import load_result
from coordinator.solvers import SOLVERS
from coordinator.storage import MemoryStorage

SLOW = {"solver": "gradient-descent", "settings": {"tol": 1e-12, "max_iter": 12}}


class StopError(Exception):
    """Ends a run from its watcher."""


def stop_at(iteration, error=StopError):
    def watch(row):
        if row["iteration"] == iteration:
            raise error

    return watch


def test_a_run_leaves_its_result_events_records_and_checkpoints(store, ask, two_classes):
    ask(store)
    rows = []
    result = run_job(store.storage, "job-one", rows.append)
    X, y = two_classes
    assert result.converged
    assert np.mean(result.predict(X) == y) > 0.8
    status = store.status("job-one")
    assert (status.state, status.iteration, status.pid) == ("done", result.n_iter_, None)
    assert status.ended >= status.started
    assert store.events("job-one") == rows == list(result.history)
    assert [row["iteration"] for row in rows] == list(range(result.n_iter_ + 1))
    assert {"objective", "residual", "relative", "passes", "seconds", "arrivals"} <= rows[-1].keys()
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert result.seconds["total"] >= seconds[-1]
    records = store.tasks("job-one")
    assert {r.fate for r in records} == {"used"}
    assert {r.phase.split("#")[0] for r in records} >= {"gradient"}
    assert len(store.storage.list("jobs/job-one/states")) == 2


def test_an_ended_job_is_not_run_again(store, ask):
    ask(store)
    first = run_job(store.storage, "job-one")
    rows = []
    again = run_job(store.storage, "job-one", rows.append)
    assert rows == []
    np.testing.assert_array_equal(again.coef_, first.coef_)
    assert again.seconds == first.seconds


def test_no_job(store):
    with pytest.raises(JobMissingError):
        run_job(store.storage, "job-one")


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(store, ask, workers):
    ask(store)
    ask(store, "job-two", workers=workers)
    one, two = run_job(store.storage, "job-one"), run_job(store.storage, "job-two")
    assert one.coef_.tobytes() == two.coef_.tobytes()
    assert [row["objective"] for row in one.history] == [row["objective"] for row in two.history]


def test_a_failed_run_keeps_its_error_and_can_go_on_to_the_same_bits(store, ask):
    ask(store, "job-whole", **SLOW)
    whole = run_job(store.storage, "job-whole")
    ask(store, **SLOW)
    for at in (0, 3, 4, 11):
        with pytest.raises(StopError):
            run_job(store.storage, "job-one", stop_at(at))
        status = store.status("job-one")
        assert (status.state, status.iteration, status.pid) == ("failed", at, None)
        with pytest.raises(JobError, match="no result yet"):
            run_job(store.storage, "job-one")
        store.reopen("job-one")
    result = run_job(store.storage, "job-one")
    assert result.coef_.tobytes() == whole.coef_.tobytes()
    assert [row["iteration"] for row in result.history] == list(range(13))
    seconds = [row["seconds"] for row in result.history]
    assert seconds == sorted(seconds), "seconds go on from those of the run before"


def stopped_after_each_step(store, ask, **job):
    """Results of a job in one piece, and of the same one killed after each step, whose bits are equal."""
    ask(store, "job-whole", **job)
    whole = run_job(store.storage, "job-whole")
    ask(store, **job)
    for at in range(1, whole.n_iter_):
        with pytest.raises(StopError):
            run_job(store.storage, "job-one", stop_at(at))
        store.reopen("job-one")
    result = run_job(store.storage, "job-one")
    assert result.coef_.tobytes() == whole.coef_.tobytes()
    return whole, result


@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in {"proximal-newton", "interior-point"}])
def test_every_solver_resumes_to_the_same_bits(store, ask, name):
    settings = {"tol": 1e-9, "max_iter": 8}
    whole, result = stopped_after_each_step(store, ask, solver=name, settings=settings)
    assert result.n_iter_ == whole.n_iter_
    assert result.reason == whole.reason


@pytest.mark.parametrize("strategy", ["metric", "averaged", "pcg", "exact", "sketch"])
def test_every_strategy_resumes_to_the_same_bits(store, ask, strategy):
    settings = {"tol": 1e-10, "max_iter": 9, "strategy": strategy, "sketch_rows": 40}
    whole, result = stopped_after_each_step(store, ask, settings=settings)
    assert result.chosen == whole.chosen


def test_interrupt_from_the_keyboard(store, ask):
    ask(store, **SLOW)
    with pytest.raises(KeyboardInterrupt):
        run_job(store.storage, "job-one", stop_at(2, KeyboardInterrupt))
    status = store.status("job-one")
    assert (status.state, status.message) == ("interrupted", "interrupted; resume it")
    assert run_job(store.storage, "job-one").n_iter_ == 12


def test_cancel_while_it_runs_keeps_the_best_iterate(store, ask):
    ask(store, solver="gradient-descent", settings={"tol": 1e-15, "max_iter": 10**6})

    def watch(row):
        if row["iteration"] == 3:
            store.cancel("job-one")

    result = run_job(store.storage, "job-one", watch)
    assert store.status("job-one").state == "cancelled"
    assert result.n_iter_ >= 3
    assert not result.converged
    assert "cancelled; this is the best iterate so far" in result.reason
    assert load_result(store.storage, "job-one").n_iter_ == result.n_iter_


def test_cancel_before_the_first_iterate_is_no_failure(store, ask):
    ask(store)
    store.storage.put("jobs/job-one/cancel", b"")  # asked for just after the start
    with pytest.raises(CancelledError):
        run_job(store.storage, "job-one")
    status = store.status("job-one")
    assert (status.state, status.message) == ("cancelled", "cancelled before its first iterate")
    with pytest.raises(JobError, match="no result yet"):
        run_job(store.storage, "job-one")


def test_a_job_that_runs_is_not_run_twice(store, ask):
    ask(store)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    store.update("job-one", state="running", pid=other.pid)
    with pytest.raises(JobError, match=f"runs already, in process {other.pid}"):
        run_job(store.storage, "job-one")
    other.communicate()
    store.update("job-one", state="running", pid=os.getpid())
    with pytest.raises(JobError, match="runs already"):
        run_job(store.storage, "job-one")


def test_a_run_killed_between_its_result_and_its_status(store, ask):
    """Coefficients were stored, figures were not: the run that follows adds them."""
    ask(store)
    result = run_job(store.storage, "job-one")
    store.storage.delete("jobs/job-one/result.json")
    store.update("job-one", state="interrupted")
    again = run_job(store.storage, "job-one")
    assert again.coef_.tobytes() == result.coef_.tobytes()
    assert store.status("job-one").state == "done"
    assert load_result(store.storage, "job-one").n_iter_ == result.n_iter_


def test_starts_from_an_earlier_job(store, ask):
    ask(store)
    first = run_job(store.storage, "job-one")
    ask(store, "job-two", start="job-one")
    second = run_job(store.storage, "job-two")
    assert second.n_iter_ <= 1
    np.testing.assert_allclose(second.coef_, first.coef_, rtol=1e-3)
    import_data(store.storage, np.eye(4), ImportOptions("narrow"), target=[0, 1, 0, 1])
    ask(store, "job-six", data="narrow", start="job-one")
    with pytest.raises(InputError, match="'job-one' has 7 parameters, this problem 5"):
        run_job(store.storage, "job-six")
    assert store.status("job-six").state == "failed"


def test_without_a_profile_the_machine_is_measured_first(store, ask, monkeypatch):
    asked = []

    monkeypatch.setattr(driver, "measure", lambda workers: asked.append(workers) or NOMINAL)
    ask(store, profile=None, workers=1)
    assert run_job(store.storage, "job-one").converged
    assert asked == [1]


def test_two_policies_the_same_bits(store, ask):
    ask(store)
    ask(store, "job-two", policy="speculate")
    one, two = run_job(store.storage, "job-one"), run_job(store.storage, "job-two")
    assert one.coef_.tobytes() == two.coef_.tobytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": "three"}, r"no data set 'three' in this store; there are: two"),
        ({"problem": {"loss": "logistik"}}, r"did you mean 'logistic'"),
        ({"problem": {"loss": "logistic", "l3": 1}}, r"unknown problem field 'l3'"),
        ({"problem": {}}, r"the problem has no loss"),
        ({"solver": "newtn"}, r"unknown solver 'newtn': did you mean 'newton'"),
        ({"solver": "lbfgs", "settings": {"memry": 3}}, r"setting of solver 'lbfgs' 'memry': did you mean 'memory'"),
        ({"solver": "lbfgs", "problem": {"loss": "logistic", "l1": 0.1}}, r"takes no l1 penalty"),
        ({"policy": "hope"}, r"policy must be one of wait, speculate, not 'hope'"),
        ({"workers": 0}, r"workers must be >= 1 and at most 10000, not 0"),
        ({"start": "job-x"}, r"no result yet|no job"),
    ],
)
def test_check_spec(ask, change, says):
    store = JobStore(MemoryStorage())
    spec = ask(store)
    check_spec(store.storage, spec)
    before = store.storage.list("")
    with pytest.raises((InputError, JobError), match=says):
        check_spec(store.storage, replace(spec, **change))
    assert store.storage.list("") == before


def test_class_counts_of_numbers_and_of_words():
    storage = MemoryStorage()
    X = np.ones((7, 1))
    labels = {"numbers": [2, -1, 2, 2, 5, -1, 2], "words": ["b", "a", "b", "b", "c", "a", "b"]}
    counts = {}
    for name, y in labels.items():
        target = np.array(y, dtype=float if name == "numbers" else object)
        import_data(storage, X, ImportOptions(name, block_bytes=16), target=target)
        spec = JobSpec("job-one", name, {"loss": "softmax", "class_weight": "balanced"}, "newton")
        problem = open_problem(storage, spec)
        counts[name] = class_counts(storage, problem.data)
        assert problem.class_weight == pytest.approx([7 / 6, 7 / 12, 7 / 3])
    assert counts == {"numbers": {"-1.0": 2, "2.0": 4, "5.0": 1}, "words": {"a": 2, "b": 4, "c": 1}}
