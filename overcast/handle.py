"""A handle on a job: look, wait, follow, cancel, resume, from any process that has the store."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.driver import carry_out
from coordinator.errors import CancelledError, JobError, UnknownNameError
from coordinator.jobs import JobSpec, JobStore, Status
from coordinator.losses import LOSSES
from coordinator.mapping import failure, is_map, load_outputs
from coordinator.results import Result, load_result
from coordinator.runtime import TaskRecord
from coordinator.storage import FileStorage, Storage
from overcast import background

if TYPE_CHECKING:
    from coordinator.uncertainty import Uncertainty

_POLL = 0.02  # seconds between looks at the store, growing to the next
_SLOW = 0.25


class JobHandle:
    """A job in a store. It holds nothing but the job's id: two handles on one job see the same.

    `allow_code` lets a function that the job maps run here, when it is resumed.
    """

    def __init__(self, storage: Storage, job: str, *, allow_code: bool = False) -> None:
        self.storage = storage
        self.allow_code = allow_code
        self.id = job
        self._store = JobStore(storage)

    def __repr__(self) -> str:
        return f"<job {self.id}: {self.status().state}>"

    @property
    def spec(self) -> JobSpec:
        """What was asked."""
        return self._store.spec(self.id)

    def status(self) -> Status:
        """Where it stands; a job whose process is gone reads as interrupted."""
        status = self._store.status(self.id)
        if status.state == "interrupted" and (said := background.last_words(self.storage, self.id)):
            status = replace(status, message=f"{status.message}; it said: {said}")
        return status

    def events(self, since: int = -1) -> list[dict[str, Any]]:
        """Figures of the iterations after `since`, so far."""
        return self._store.events(self.id, since)

    def tasks(self) -> list[TaskRecord]:
        """Every attempt at a task so far: when, where, and what became of it; in the cloud what it took, too."""
        return self._store.tasks(self.id)

    def stream(self, timeout: float | None = None) -> Iterator[dict[str, Any]]:
        """Figures of each iteration as they come, from the first on; ends with the job, or when it is interrupted.

        Raises TimeoutError after `timeout` seconds without the end.
        """
        limit = None if timeout is None else time.monotonic() + timeout
        last, pause = -1, _POLL
        while True:
            over = _at_rest(self.status())  # looked at before the events: none can come after
            for row in self.events(last):
                last, pause = int(row["iteration"]), _POLL
                yield row
            if over:
                return
            if limit is not None and time.monotonic() > limit:
                raise TimeoutError(f"job {self.id} is still running after {timeout} s")
            time.sleep(pause)
            pause = min(1.5 * pause, _SLOW)

    def wait(self, timeout: float | None = None) -> Status:
        """Wait until it is done, cancelled, failed or interrupted.

        Raises TimeoutError after `timeout` seconds; the job goes on.
        """
        limit = None if timeout is None else time.monotonic() + timeout
        pause = _POLL
        while not _at_rest(status := self.status()):
            if limit is not None and time.monotonic() > limit:
                raise TimeoutError(f"job {self.id} is still {status.state} after {timeout} s")
            time.sleep(pause)
            pause = min(1.5 * pause, _SLOW)
        return status

    def result(self, timeout: float | None = None) -> Result:
        """Wait, and what it found; for a cancelled job, its best iterate.

        Raises
        ------
        JobError
            For a job that failed, was cancelled before its first iterate, or is interrupted.
        TimeoutError
            After `timeout` seconds; the job goes on.
        """
        if is_map(self.spec):
            raise JobError(f"job {self.id} maps a function: outputs() has its results")
        status = self.wait(timeout)
        if status.state in {"done", "cancelled"}:
            return load_result(self.storage, self.id)
        remedy = "; resume() goes on from its newest checkpoint" if status.state == "interrupted" else ""
        raise JobError(f"job {self.id} {_verb(status)}: {status.message}{remedy}")

    def outputs(self, timeout: float | None = None, *, trust_results: bool = False) -> list[Any]:
        """Wait, and the results of a job that maps a function, in the order of its items.

        Raises
        ------
        InputError
            For results that are pickled, unless `trust_results` says that their writers may run code here.
        ItemError, CodeRefusedError
            When the function failed on an item, or was not let run.
        CancelledError, JobError
            For a job that was cancelled, and for one that is interrupted, failed otherwise or maps nothing.
        TimeoutError
            After `timeout` seconds; the job goes on.
        """
        spec = self.spec
        if not is_map(spec):
            raise JobError(f"job {self.id} is a solve: result() has its solution")
        status = self.wait(timeout)
        if status.state == "done":
            return load_outputs(self.storage, spec, trust=trust_results)
        if status.state == "failed":
            raise failure(self.id, status.message)
        error = CancelledError if status.state == "cancelled" else JobError
        raise error(f"job {self.id} {_verb(status)}: {status.message}; resume() goes on")

    def cancel(self) -> None:
        """Ask it to stop: it does within a second and keeps its best iterate. Nothing happens to an ended job."""
        if not self.status().final:
            self._store.cancel(self.id)

    def resume(self, *, wait: bool = False) -> JobHandle:
        """Go on from the newest checkpoint, in the background: an interrupted, failed, cancelled or queued job.

        Raises JobError when it runs already or is done; with `wait`, runs here and now.
        """
        self.reopen()
        if wait:
            carry_out(self.storage, self.id, allow_code=self.allow_code)
        else:
            self.launch()
        return self

    def reopen(self) -> None:
        """Make it ready to go on; JobError when it runs already or is done."""
        status = self.status()
        if status.state == "done":
            raise JobError(f"job {self.id} is done: a new one may start from it, with start={self.id!r}")
        if status.state == "running" or background.thread_runs(self.storage, self.id):
            raise JobError(f"job {self.id} runs already: wait for it, or cancel it")
        self._store.reopen(self.id)

    def launch(self) -> None:
        """Run it in the background: a process for a store on disk, else (and for a loss made here) a thread."""
        self._store.update(self.id, when=("interrupted",), state="queued", pid=None, message="")
        if isinstance(self.storage, FileStorage) and not made_here(self.spec.problem):
            background.start_process(self.storage, self.id, allow_code=self.allow_code)
        else:
            background.start_thread(self.storage, self.id, allow_code=self.allow_code)

    def delete(self) -> None:
        """Delete everything of it; JobError while it runs."""
        self._store.clean(self.id)

    def report(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the HTML report (default: report-ID.html here); its path. Needs the extra "report"."""
        from overcast.report import write_report

        return write_report(self.storage, self.id, path)

    def uncertainty(self, **options: Any) -> Uncertainty:
        """Standard errors, tests and intervals of an ended job's coefficients; print it for the table.

        `options` are the fields of `coordinator.uncertainty.Options`: method ("auto", "exact" or "estimate"), accuracy,
        covariance ("auto", "model" or "sandwich"), level, contrasts, leverage, draw, rows, estimates, spare, seed and
        workers.

        Raises InputError for an option or a job for which there are none, JobError when it has no result yet.
        """
        from coordinator.uncertainty import Options, uncertainty

        known = [f.name for f in fields(Options)]
        for name in options:
            if name not in known:
                raise UnknownNameError("option of uncertainty", name, known)
        return uncertainty(self.storage, self.id, Options(**options))


def made_here(problem: Mapping[str, Any]) -> bool:
    """Whether the problem's loss is one that is registered in this process only."""
    loss = problem.get("loss")
    kind = LOSSES.get(loss["name"] if isinstance(loss, dict) else str(loss))
    return kind is not None and kind.__module__ != "coordinator.losses"


def _at_rest(status: Status) -> bool:
    return status.final or status.state == "interrupted"


def _verb(status: Status) -> str:
    return "failed" if status.state == "failed" else f"is {status.state}"
