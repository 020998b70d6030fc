"""The report on a job: one self-contained HTML page. Plots by matplotlib (extra "report"), as inline SVG."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from coordinator.errors import InputError, JobError
from coordinator.jobs import JobSpec, JobStore, Status
from coordinator.results import Result, load_result
from coordinator.runtime import TaskRecord
from coordinator.solvers import make_solver
from coordinator.storage import Storage

SLOW: Final = 2.0  # times the median of its phase, and SLOW_BY seconds more than that: a straggler
SLOW_BY: Final = 0.01
SLOW_LEAST: Final = 4  # tasks of a phase, for a median to mean anything


@dataclass(frozen=True)
class Bar:
    """One attempt on the timeline; `mark` is "", "straggler", "retry", "failed" or "spare"."""

    kind: str
    worker: str
    start: float
    end: float
    mark: str = ""


@dataclass(frozen=True)
class Story:
    """What a report tells.

    Attributes
    ----------
    events : one row of figures an iteration.
    bars, restarts : the timeline in seconds, and the times on it at which the job was resumed.
    tol : relative gradient (or gap) that ends the job, if its solver has one.
    result : None while there is none.
    """

    spec: JobSpec
    status: Status
    events: Sequence[Mapping[str, Any]]
    bars: Sequence[Bar]
    restarts: Sequence[float]
    tol: float | None
    result: Result | None


def tell(storage: Storage, job: str) -> Story:
    """Gather what is known of a job, whether it has ended or not."""
    store = JobStore(storage)
    spec = store.spec(job)
    try:
        result: Result | None = load_result(storage, job)
    except JobError:
        result = None
    tol = getattr(make_solver(spec.solver, spec.settings), "tol", None)
    events = store.events(job)
    restarts = [float(before["seconds"]) for before, row in pairwise(events) if row.get("resumed")]
    return Story(spec, store.status(job), events, timeline(store.tasks(job)), restarts, tol, result)


def timeline(records: Sequence[TaskRecord]) -> list[Bar]:
    """Task records as bars, with a mark on those that are out of the ordinary."""
    durations: dict[str, list[float]] = {}
    for record in records:
        durations.setdefault(record.phase, []).append(record.ended - record.started)
    limits = {phase: _limit(values) for phase, values in durations.items()}
    bars: list[Bar] = []
    for record in records:
        if record.fate not in {"used", "spare"}:
            mark = "failed"
        elif record.fate == "spare":
            mark = "spare"
        elif record.attempt > 1:
            mark = "retry"
        else:
            mark = "straggler" if record.ended - record.started > limits[record.phase] else ""
        bars.append(Bar(record.phase.split("#", 1)[0], record.worker, record.started, record.ended, mark))
    return bars


def _limit(seconds: Sequence[float]) -> float:
    """What a straggler of a phase exceeds."""
    if len(seconds) < SLOW_LEAST:
        return float("inf")
    median = sorted(seconds)[len(seconds) // 2]
    return max(SLOW * median, median + SLOW_BY)


def write_report(storage: Storage, job: str, path: str | os.PathLike[str] | None = None) -> Path:
    """Write the report on `job`; the path of the page (default: report-JOB.html in this folder).

    Raises InputError without matplotlib or when the page cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise InputError("a report needs the extra \"report\": pip install 'overcast[report]'")
    from overcast.report_page import page
    from overcast.report_plots import plots

    story = tell(storage, job)
    out = Path(path) if path is not None else Path(f"report-{job}.html")
    text = page(story, plots(story))
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return out
