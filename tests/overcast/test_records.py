"""Task records: marks, lanes, sums by phase, CSV, and what the report says of them."""

from __future__ import annotations

import csv
import io
from itertools import pairwise

import pytest

from coordinator.jobs import JobSpec, JobStore
from coordinator.runtime import TaskRecord
from coordinator.storage import MemoryStorage
from coordinator.tasks import Report
from overcast.records import COLUMNS, by_phase, lanes, marks, write_csv
from overcast.report import tell
from overcast.report_page import page
from overcast.report_plots import plots


def record(phase, index, start, end, fate="used", attempt=1, worker="w", report=None):
    return TaskRecord(phase, index, attempt, start, end, worker, fate, report)


COLD = Report(cold=True, misses=2, init=0.5, get=0.2, compute=0.3, put=0.0, seconds=0.5, bytes_in=2_000_000, cost=2e-6)
WARM = Report(hits=2, compute=0.3, seconds=0.3, limit=512, bytes_out=5_000_000, cost=1e-6)
RECORDS = [
    record("gradient#1", 0, 0.0, 1.0, report=COLD),
    record("gradient#1", 1, 0.0, 0.4, report=WARM),
    record("gradient#1", 2, 0.5, 0.9, "the call was lost"),
    record("gradient#1", 2, 1.0, 1.4, attempt=2, report=WARM),
    record("sketch#2", 0, 1.5, 1.6, worker="v"),
]


def test_sums_by_phase_are_those_of_the_records():
    gradient, sketch = by_phase(RECORDS)
    assert (gradient.kind, gradient.runs, gradient.attempts) == ("gradient", 1, 4)
    assert (gradient.retries, gradient.failed, gradient.cold, gradient.stragglers) == (1, 1, 1, 1)
    assert (gradient.hits, gradient.misses) == (4, 2)
    assert gradient.busy == pytest.approx(2.2)
    assert gradient.longest == 1.0
    assert (gradient.dollars, gradient.starting) == pytest.approx((3e-6, 1e-6))  # half of the cold one's second
    assert (gradient.init, gradient.get, gradient.compute) == pytest.approx((0.5, 0.2, 0.9))
    assert (sketch.kind, sketch.cold, sketch.dollars) == ("sketch", 0, 0.0)
    assert by_phase([]) == []
    later = [record("gradient#1", i, 9.0 + i, 9.5 + i) for i in range(3)]
    assert [one.runs for one in by_phase(RECORDS + later)] == [2, 1], "names come again in the next iteration"


def test_marks():
    assert marks(RECORDS) == ["straggler", "", "failed", "retry", ""]


def test_attempts_at_once_on_one_function_lie_in_lanes():
    assert lanes(RECORDS) == ["w 2", "w 1", "w 1", "w 1", "v"]
    for name in ("w 1", "w 2"):
        inside = [r for r, lane in zip(RECORDS, lanes(RECORDS), strict=True) if lane == name]
        assert all(a.ended <= b.started for a, b in pairwise(inside))


def test_csv_holds_every_attempt():
    file = io.StringIO()
    write_csv(file, RECORDS)
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert tuple(rows[0]) == COLUMNS
    assert [row["mark"] for row in rows] == marks(RECORDS)
    assert (rows[0]["cold"], rows[0]["misses"], float(rows[0]["init"]), float(rows[0]["cost"])) == ("1", "2", 0.5, 2e-6)
    assert (rows[2]["fate"], rows[2]["cost"], rows[3]["attempt"]) == ("the call was lost", "", "2")


def test_command_writes_the_csv(cli, libsvm, tmp_path):
    assert cli("solve", libsvm, "--loss", "logistic", "--l2", "1e-3", "--id", "job-one", "--quiet").code == 0
    path = tmp_path / "tasks.csv"
    ran = cli("jobs", "show", "latest", "--tasks", path)
    assert (ran.code, ran.out) == (0, "")
    assert "task attempts" in ran.err
    assert cli("jobs", "show", "job-one", "--tasks", "-").out == path.read_text()
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert rows
    assert all(float(row["ended"]) >= float(row["started"]) >= 0 and row["fate"] == "used" for row in rows)
    assert cli("jobs", "show", "latest", "--tasks", tmp_path / "no" / "x.csv").code == 2


def test_report_of_a_job_in_the_cloud():
    """Cold starts, stages and what was spent beside what was quoted."""
    storage = MemoryStorage()
    store = JobStore(storage)
    store.create(JobSpec("job-one", "rows", {"loss": "logistic"}, "lbfgs"))
    assert store.quote("job-one") is None
    phases = [{"name": "gradient", "dollars": 0.25}, {"name": "<hessian>", "dollars": 0.5}]
    cold = {"starts": 3, "seconds": 1.0, "dollars": 0.125}
    store.save_quote("job-one", {"dollars": 0.75, "prices_of": "2026-11-01", "phases": phases, "cold": cold})
    store.save_quote("job-one", {"dollars": 9.0, "prices_of": "later", "phases": [], "cold": cold})  # the first stands
    store.save_tasks("job-one", 1, RECORDS)
    store.update("job-one", spent=0.125)
    told = tell(storage, "job-one")
    assert [bar.cold for bar in told.bars] == [True, False, False, False, False]
    drawn = plots(told)
    assert "cold start (1)" in drawn["timeline"]
    text = page(told, drawn)
    for words in (
        "Spent $0.125000, of which on tasks $0.000004; quoted $0.750000, at prices of 2026-11-01",
        "&lt;hessian&gt;",
        "cold starts",
        "1 was a cold start",
        "0.250000",
        "67%",
        "<td>0.000001</td>",  # of cold starts
        "0.125000",  # quoted of them
    ):
        assert words in text
    assert "storing" not in text, "columns of noughts are left out"
