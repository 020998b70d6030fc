"""The report on a job: one self-contained HTML page. Plots by matplotlib (extra "report"), as inline SVG."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from coordinator.errors import InputError, JobError
from coordinator.jobs import JobSpec, JobStore, Status
from coordinator.mapping import is_map
from coordinator.results import Result, load_result
from coordinator.runtime import TaskRecord
from coordinator.solvers import make_solver
from coordinator.storage import Storage
from overcast.files import written
from overcast.records import PhaseSum, by_phase, kind_of, lanes, marks


@dataclass(frozen=True)
class Bar:
    """One attempt on the timeline; `mark` is "", "straggler", "retry", "failed" or "spare"."""

    kind: str
    worker: str
    start: float
    end: float
    mark: str = ""
    cold: bool = False


@dataclass(frozen=True)
class Story:
    """What a report tells.

    Attributes
    ----------
    events : one row of figures an iteration.
    bars, restarts : the timeline in seconds, and the times on it at which the job was resumed.
    tol : relative gradient (or gap) that ends the job, if its solver has one.
    result : None while there is none.
    phases : what the kinds of phases took.
    quote : what was quoted before the job ran, as `coordinator.cloud.quote.Quote`; None: nothing was.
    """

    spec: JobSpec
    status: Status
    events: Sequence[Mapping[str, Any]]
    bars: Sequence[Bar]
    restarts: Sequence[float]
    tol: float | None
    result: Result | None
    phases: Sequence[PhaseSum] = ()
    quote: Mapping[str, Any] | None = None


def tell(storage: Storage, job: str) -> Story:
    """Gather what is known of a job, whether it has ended or not."""
    store = JobStore(storage)
    spec = store.spec(job)
    if is_map(spec):
        raise InputError(f"job {job!r} maps a function: there is no solve to report on; see `overcast jobs show`")
    try:
        result: Result | None = load_result(storage, job)
    except JobError:
        result = None
    tol = getattr(make_solver(spec.solver, spec.settings), "tol", None)
    events = store.events(job)
    restarts = [float(before["seconds"]) for before, row in pairwise(events) if row.get("resumed")]
    records = store.tasks(job)
    bars, phases = timeline(records), by_phase(records)
    return Story(spec, store.status(job), events, bars, restarts, tol, result, phases, store.quote(job))


def timeline(records: Sequence[TaskRecord]) -> list[Bar]:
    """Task records as bars, with a mark on those that are out of the ordinary."""
    return [
        Bar(kind_of(record), lane, record.started, record.ended, mark, record.report is not None and record.report.cold)
        for record, mark, lane in zip(records, marks(records), lanes(records), strict=True)
    ]


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
    with written(out, "w") as file:
        file.write(text)
    return out
