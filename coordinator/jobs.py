"""Jobs: spec, status, checkpoints, events and result as objects in storage, so that anyone with the store can look.

jobs/ID/spec.json           what was asked, never changed
jobs/ID/status.json         where it stands, by compare-and-swap
jobs/ID/events/000012.json  figures of iteration 12
jobs/ID/states/000012       checkpoint after iteration 12 (the newest two are kept)
jobs/ID/tasks/000012        task records of iteration 12
jobs/ID/quote.json          what it was expected to take, in the cloud
jobs/ID/cancel              somebody wants it to stop
jobs/ID/result.json, result what it found
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from itertools import islice
from typing import Any, Final, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from coordinator import checkpoint
from coordinator.errors import (
    ConflictError,
    DamagedError,
    InputError,
    JobError,
    JobMissingError,
    KeyMissingError,
    LeaseLostError,
)
from coordinator.processes import born
from coordinator.runtime import TaskRecord
from coordinator.storage import FileStorage, MemoryStorage, Storage, json_made, json_object
from coordinator.tasks import Report

T = TypeVar("T")
FORMAT: Final = 1
READERS: Final = 16  # objects read at once
Phase = Literal["queued", "running", "interrupted", "done", "cancelled", "failed"]
FINAL: Final = ("done", "cancelled", "failed")
_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{3,60}")


@dataclass(frozen=True)
class JobSpec:
    """What was asked: names and numbers, as JSON.

    Attributes
    ----------
    data : name of a data set in the store.
    problem : fields of `problem_from_spec` (or {"kind": ...} of another form of problem).
    solver, settings : name in the registry, and its settings.
    workers : threads of the local executor (None: all cores), most calls at once of the others.
    profile : rates of the machine that decisions stand on (None: measured at the start).
    start : job whose solution is the starting point, or None.
    policy : straggler policy, "wait" or "speculate".
    executor : what runs the tasks of a job that is driven here, "local" or "lithops".
    max_cost : dollars at which it stops with its best iterate so far, in the cloud.
    deadline : time at which it does so, in seconds since 1970.
    """

    id: str
    data: str
    problem: Mapping[str, Any]
    solver: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    workers: int | None = None
    profile: Mapping[str, Any] | None = None
    start: str | None = None
    policy: str = "wait"
    executor: str = "local"
    max_cost: float | None = None
    deadline: float | None = None
    created: float = 0.0
    version: str = ""
    format: int = FORMAT


@dataclass(frozen=True)
class Status:
    """Where a job stands; times in seconds since 1970.

    `pid` is of the process that runs it, and `born` that process's start (clock ticks since boot): a pid alone may name
    another process later, in a restarted container at once.

    In the cloud a driver `owner` runs it that holds a lease until `expires`; `hops` counts drivers that handed over to
    the next, `falls` those that ended without a word since the last iteration, and `spent` is in dollars.
    """

    state: Phase
    iteration: int = 0
    objective: float | None = None
    relative: float | None = None
    message: str = ""
    pid: int | None = None
    born: int | None = None
    started: float | None = None
    updated: float | None = None
    ended: float | None = None
    owner: str = ""
    expires: float | None = None
    hops: int = 0
    falls: int = 0
    spent: float = 0.0

    @property
    def final(self) -> bool:
        return self.state in FINAL


def new_id() -> str:
    """An id that sorts by time: seconds, then chance."""
    return time.strftime("%y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(3)


class JobStore:
    """Jobs in a storage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def create(self, spec: JobSpec) -> JobSpec:
        """Store a new job as queued; its spec with the time filled in."""
        self.check_id(spec.id)
        spec = replace(spec, created=time.time())
        try:
            self.storage.put(self.key(spec.id, "spec.json"), _dump(asdict(spec)))
        except ConflictError:
            raise InputError(f"job {spec.id!r} exists already: choose another id, or resume it") from None
        self.storage.swap(self.key(spec.id, "status.json"), _dump(asdict(Status("queued", updated=time.time()))), None)
        return spec

    def check_id(self, job: str) -> None:
        """InputError when a new job cannot bear this id."""
        if not _ID.fullmatch(job):
            raise InputError(f"bad job id {job!r}: use 4 to 60 small letters, digits and '-'")
        if self.storage.exists(self.key(job, "spec.json")):
            raise InputError(f"job {job!r} exists already: choose another id, or resume it")

    def spec(self, job: str) -> JobSpec:
        """The spec; JobMissingError if there is no such job."""
        key = self.key(job, "spec.json")
        try:
            raw = json_object(self.storage.get(key), key)
        except (KeyMissingError, InputError):
            known = self.ids(1)
            hint = f"the newest is {known[-1]}" if known else "there are none yet"
            raise JobMissingError(f"no job {job!r} in this store; {hint}") from None
        if raw.get("format") != FORMAT:
            raise JobError(f"job {job!r} was made by version {raw.get('version')!r} of overcast: use that one for it")
        return json_made(JobSpec, raw, key)

    def status(self, job: str) -> Status:
        """The status; a job whose process is gone reads as interrupted."""
        return self._status(job)[0]

    def update(self, job: str, *, when: Collection[str] | None = None, **changes: Any) -> Status:
        """Change the status by compare-and-swap, where its state is one of `when` (None: any)."""
        return self._change(job, when, changes)[0]

    def claim(self, job: str) -> bool:
        """Make a queued or interrupted job this process's to run; False when it is not to be had.

        Of several that try at once, one succeeds.
        """
        started = self.status(job).started or time.time()
        changes = {"state": "running", "pid": os.getpid(), "started": started, "message": ""}
        return self._change(job, ("queued", "interrupted"), changes)[1]

    def lease(self, job: str, owner: str, seconds: float) -> Status | None:
        """Make a queued or interrupted job `owner`'s to run for so many seconds; None when it is not to be had.

        Of several that try at once, one succeeds; so does one after a driver whose lease has run out.
        """
        before = self.status(job)
        fallen = int(before.expires is not None)  # a lease that was not given back
        now = time.time()
        changes = {
            "state": "running",
            "pid": None,
            "owner": owner,
            "expires": now + seconds,
            "started": before.started or now,
            "message": "",
            "falls": before.falls + fallen,
        }
        status, changed = self._change(job, ("queued", "interrupted"), changes)
        return status if changed else None

    def hold(self, job: str, held_by: str, /, **changes: Any) -> Status:
        """Change the status of a job that `held_by` runs; LeaseLostError when it does so no more."""
        status, changed = self._change(job, ("running", "interrupted"), changes, held_by)
        if not changed:
            raise LeaseLostError(f"job {job!r} is run by another driver now")
        return status

    def ids(self, most: int | None = None) -> list[str]:
        """Ids of all jobs, or of the newest `most` (by ids as `new_id` makes them), oldest first."""
        folders = reversed(self.storage.folders("jobs"))
        there = (job for job in folders if self.storage.exists(self.key(job, "spec.json")))
        return list(islice(there, most))[::-1]

    def cancel(self, job: str) -> None:
        """Ask the job to stop; it does so within a second, keeping its best iterate."""
        self.spec(job)
        waiting = ("queued", "interrupted")
        self.update(job, when=waiting, state="cancelled", ended=time.time(), message="cancelled before it ran on")
        try:
            self.storage.put(self.key(job, "cancel"), b"")
        except ConflictError:
            return

    def cancelled(self, job: str) -> bool:
        return self.storage.exists(self.key(job, "cancel"))

    def reopen(self, job: str) -> None:
        """Let a cancelled or failed job run on from its newest checkpoint: it becomes interrupted."""
        if self.status(job).state not in {"cancelled", "failed"}:
            return
        for name in ("cancel", "result", "result.json"):
            self.storage.delete(self.key(job, name))
        self.update(job, state="interrupted", pid=None, ended=None, message="reopened; resume it")

    def clean(self, job: str) -> int:
        """Delete everything of a job; how many objects went."""
        with suppress(DamagedError):  # such a job runs no more, and may go
            self.spec(job)
            if self.status(job).state == "running":
                raise JobError(f"job {job!r} is running: cancel it first")
        return self.storage.delete(f"jobs/{job}")

    # -- what a run leaves ------------------------------------------------------------------------------------------

    def save_state(self, job: str, iteration: int, state: Any, keep: int = 2) -> bool:
        """Checkpoint after `iteration`, unless there is one; older ones than the newest `keep` go."""
        key = self.key(job, f"states/{iteration:06d}")
        try:
            self.storage.put_arrays(key, checkpoint.to_arrays(state))
        except ConflictError:
            return False
        for old in self.storage.list(self.key(job, "states"))[:-keep]:
            self.storage.delete(old)
        return True

    def load_state(self, job: str, kind: type[Any]) -> Any | None:
        """The newest checkpoint, or None."""
        keys = self.storage.list(self.key(job, "states"))
        return checkpoint.from_arrays(kind, self.storage.get_arrays(keys[-1]), keys[-1]) if keys else None

    def newest(self, job: str) -> int:
        """The iteration of the newest checkpoint; -1 where there is none."""
        keys = self.storage.list(self.key(job, "states"))
        return int(keys[-1].rsplit("/", 1)[1]) if keys else -1

    def save_event(self, job: str, iteration: int, row: Mapping[str, Any]) -> bool:
        """Figures of one iteration; written once. Whether it was now."""
        try:
            self.storage.put(self.key(job, f"events/{iteration:06d}.json"), _dump(row))
        except ConflictError:
            return False
        return True

    def events(self, job: str, since: int = -1) -> list[dict[str, Any]]:
        """Figures of the iterations after `since`, in order."""
        keys = [k for k in self.storage.list(self.key(job, "events")) if int(k[-11:-5]) > since]
        return [json_object(data, key) for data, key in zip(self._all(self.storage.get, keys), keys, strict=True)]

    def last_event(self, job: str) -> dict[str, Any] | None:
        """Figures of the newest iteration, or None."""
        keys = self.storage.list(self.key(job, "events"))
        return json_object(self.storage.get(keys[-1]), keys[-1]) if keys else None

    def save_tasks(self, job: str, iteration: int, records: Sequence[TaskRecord], run: str = "") -> None:
        """Task records of one iteration (of one `run` at it), as columns."""
        phases = sorted({r.phase for r in records})
        workers = sorted({r.worker for r in records})
        fates = sorted({r.fate for r in records})
        names = json.dumps([phases, workers, fates]).encode()
        columns: dict[str, NDArray[Any]] = {"names": np.frombuffer(names, dtype=np.uint8)}
        columns["ids"] = np.array(
            [
                [phases.index(r.phase), r.index, r.attempt, workers.index(r.worker), fates.index(r.fate)]
                for r in records
            ],
            dtype=np.int32,
        ).reshape(-1, 5)
        columns["times"] = np.array([[r.started, r.ended] for r in records]).reshape(-1, 2)
        if any(r.report is not None for r in records):
            none = (float("nan"),) * len(fields(Report))
            columns["reports"] = np.array([none if r.report is None else astuple(r.report) for r in records], float)
        try:
            self.storage.put_arrays(self.key(job, f"tasks/{iteration:06d}{run}"), columns)
        except ConflictError:
            return

    def tasks(self, job: str) -> list[TaskRecord]:
        """All task records; seconds since the job began, of the time it ran."""
        out = []
        for columns in self._all(self.storage.get_arrays, self.storage.list(self.key(job, "tasks"))):
            phases, workers, fates = json.loads(columns["names"].tobytes())
            rows = columns["reports"].tolist() if "reports" in columns else [None] * len(columns["ids"])
            parts = zip(columns["ids"].tolist(), columns["times"].tolist(), rows, strict=True)
            for (p, i, a, w, f), (start, end), row in parts:
                out.append(TaskRecord(phases[p], i, a, start, end, workers[w], fates[f], _report(row)))
        return out

    def save_quote(self, job: str, quote: Mapping[str, Any]) -> None:
        """What the job is expected to take (`coordinator.cloud.quote.Quote` as JSON); kept beside what it took."""
        try:
            self.storage.put(self.key(job, "quote.json"), _dump(quote))
        except ConflictError:
            return

    def quote(self, job: str) -> dict[str, Any] | None:
        """The quote; None where there is none."""
        key = self.key(job, "quote.json")
        with suppress(KeyMissingError):
            return json_object(self.storage.get(key), key)
        return None

    def _all(self, get: Callable[[str], T], keys: Sequence[str]) -> list[T]:
        """The objects of all keys, in order; several at a time where each may take a trip to the service."""
        if len(keys) < 4 or isinstance(self.storage, MemoryStorage | FileStorage):
            return [get(key) for key in keys]
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(get, keys))

    def key(self, job: str, name: str) -> str:
        return f"jobs/{job}/{name}"

    def _change(
        self, job: str, when: Collection[str] | None, changes: Mapping[str, Any], owner: str | None = None
    ) -> tuple[Status, bool]:
        """The status, and whether it was changed: it is where its state, and its owner where one is named, are so."""
        if "pid" in changes:
            changes = {**changes, "born": None if changes["pid"] is None else born(changes["pid"])}
        while True:
            status, version = self._status(job)
            if (when is not None and status.state not in when) or owner not in {None, status.owner}:
                return status, False
            changed = replace(status, updated=time.time(), **changes)
            try:
                self.storage.swap(self.key(job, "status.json"), _dump(asdict(changed)), version)
            except ConflictError:
                continue
            return changed, True

    def _status(self, job: str) -> tuple[Status, str | None]:
        key = self.key(job, "status.json")
        try:
            data, version = self.storage.read(key)
        except KeyMissingError:
            self.spec(job)
            return Status("queued"), None  # its maker was killed between spec and status
        status = json_made(Status, json_object(data, key), key)
        if status.state not in get_args(Phase):
            raise DamagedError(key)
        if status.state in {"queued", "running"} and _gone(status):
            status = replace(status, state="interrupted", message="its process ended; resume it")
        if status.state == "running" and status.expires is not None and status.expires < time.time():
            status = replace(status, state="interrupted", message="its driver ended without a word; resume it")
        return status, version


def _report(row: Sequence[float] | None) -> Report | None:
    if row is None or np.isnan(row[0]):  # this attempt has none
        return None
    kinds = {"bool": bool, "int": int, "float": float}
    return Report(*(kinds[str(f.type)](value) for f, value in zip(fields(Report), row, strict=True)))


def _gone(status: Status) -> bool:
    if status.pid is None:
        return False
    now = born(status.pid)
    return now is None or status.born not in {None, now}


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not plain data")
