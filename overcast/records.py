"""Task records as rows for people: marks on what is out of the ordinary, sums by phase, CSV."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import IO, Any, Final

from coordinator.runtime import TaskRecord
from coordinator.tasks import Report

SLOW: Final = 2.0  # times the median of its phase, and SLOW_BY seconds more than that: a straggler
SLOW_BY: Final = 0.01
SLOW_LEAST: Final = 4  # tasks of a phase, for a median to mean anything
_OWN: Final = ("phase", "index", "attempt", "started", "ended", "worker", "fate", "mark")
COLUMNS: Final = (*_OWN, *(field.name for field in fields(Report)))


@dataclass(frozen=True)
class PhaseSum:
    """One kind of phase over a whole job.

    Attributes
    ----------
    runs, attempts : phases of this kind, and attempts at their tasks.
    stragglers, retries, failed, cold : attempts that were so.
    busy, longest : seconds of all attempts, and of the longest.
    init, get, compute, put : seconds by stage; 0 where workers report none.
    hits, misses : data blocks found in workers, and fetched.
    bytes_in, bytes_out : of object storage.
    dollars : spent on the attempts, but for `starting` workers.
    """

    kind: str
    runs: int
    attempts: int
    stragglers: int
    retries: int
    failed: int
    cold: int
    busy: float
    longest: float
    init: float
    get: float
    compute: float
    put: float
    hits: int
    misses: int
    bytes_in: int
    bytes_out: int
    dollars: float
    starting: float


def kind_of(record: TaskRecord) -> str:
    """The kind of phase it belongs to."""
    return record.phase.split("#", 1)[0]


def marks(records: Sequence[TaskRecord]) -> list[str]:
    """For each record "", "straggler", "retry", "failed" or "spare"."""
    durations: dict[str, list[float]] = {}
    for record in records:
        durations.setdefault(record.phase, []).append(record.ended - record.started)
    limits = {phase: _limit(values) for phase, values in durations.items()}
    return [_mark(record, limits[record.phase]) for record in records]


def _mark(record: TaskRecord, limit: float) -> str:
    if record.fate not in {"used", "spare"}:
        return "failed"
    if record.fate == "spare":
        return "spare"
    if record.attempt > 1:
        return "retry"
    return "straggler" if record.ended - record.started > limit else ""


def _limit(seconds: Sequence[float]) -> float:
    """What a straggler of a phase exceeds."""
    if len(seconds) < SLOW_LEAST:
        return float("inf")
    median = sorted(seconds)[len(seconds) // 2]
    return max(SLOW * median, median + SLOW_BY)


def by_phase(records: Sequence[TaskRecord]) -> list[PhaseSum]:
    """Sums over each kind of phase, the longest first."""
    groups: dict[str, list[tuple[TaskRecord, str]]] = {}
    for record, mark in zip(records, marks(records), strict=True):
        groups.setdefault(kind_of(record), []).append((record, mark))
    sums = [_sum(kind, group) for kind, group in groups.items()]
    return sorted(sums, key=lambda one: (-one.busy, one.kind))


def _sum(kind: str, group: Sequence[tuple[TaskRecord, str]]) -> PhaseSum:
    seen = [mark for _, mark in group]
    seconds = [record.ended - record.started for record, _ in group]
    reports = [record.report for record, _ in group if record.report is not None]
    return PhaseSum(
        kind=kind,
        runs=_runs([record for record, _ in group]),
        attempts=len(group),
        stragglers=seen.count("straggler"),
        retries=sum(record.attempt > 1 for record, _ in group),
        failed=seen.count("failed"),
        cold=sum(report.cold for report in reports),
        busy=sum(seconds),
        longest=max(seconds),
        init=sum(report.init for report in reports),
        get=sum(report.get for report in reports),
        compute=sum(report.compute for report in reports),
        put=sum(report.put for report in reports),
        hits=sum(report.hits for report in reports),
        misses=sum(report.misses for report in reports),
        bytes_in=sum(report.bytes_in for report in reports),
        bytes_out=sum(report.bytes_out for report in reports),
        dollars=sum(report.cost - report.starting for report in reports),
        starting=sum(report.starting for report in reports),
    )


def _runs(records: Sequence[TaskRecord]) -> int:
    """How many phases these are of: names come again in each iteration, and so do first attempts at a task."""
    firsts = Counter((record.phase, record.index) for record in records if record.attempt == 1)
    most: dict[str, int] = {}
    for (phase, _), count in firsts.items():
        most[phase] = max(count, most.get(phase, 0))
    return sum(most.values())


def lanes(records: Sequence[TaskRecord]) -> list[str]:
    """Where each record lies on a timeline: its worker, or one of several lanes of a worker that runs many at once."""
    free: dict[str, list[float]] = {}  # worker -> end of the last record in each of its lanes
    placed = [0] * len(records)
    for i in sorted(range(len(records)), key=lambda i: (records[i].started, records[i].ended)):
        record = records[i]
        ends = free.setdefault(record.worker, [])
        lane = next((j for j, end in enumerate(ends) if end <= record.started), len(ends))
        if lane == len(ends):
            ends.append(record.ended)
        else:
            ends[lane] = record.ended
        placed[i] = lane
    return [
        record.worker if len(free[record.worker]) == 1 else f"{record.worker} {lane + 1}"
        for record, lane in zip(records, placed, strict=True)
    ]


def rows(records: Sequence[TaskRecord]) -> Iterable[Mapping[str, Any]]:
    """One row an attempt, by `COLUMNS`; a worker that reports nothing leaves its columns empty."""
    for record, mark in zip(records, marks(records), strict=True):
        row = {name: getattr(record, name) for name in _OWN if name != "mark"} | {"mark": mark}
        if record.report is not None:
            row |= vars(record.report) | {"cold": int(record.report.cold)}
        yield row


def write_csv(file: IO[str], records: Sequence[TaskRecord]) -> None:
    """All attempts as CSV: seconds since the job began, bytes, dollars, memory in bytes and its limit in MB."""
    out = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    out.writeheader()
    for row in rows(records):
        out.writerow({name: f"{value:.9g}" if isinstance(value, float) else value for name, value in row.items()})
