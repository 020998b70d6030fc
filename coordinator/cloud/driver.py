"""The driver on Lambda: the loop of `coordinator.driver` under a lease, handed on before its time limit.

A driver takes the job's lease by compare-and-swap, renews it while it lives, and stores every checkpoint once. When the
time that is left would not do for another step as long as the longest so far, or runs out within a step, it gives the
lease back and calls itself anew. A step that was left off is run again with all results stored, so that each driver
finds what those before it have got. A driver that dies is followed by another (`coordinator.cloud.calling`).
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import numpy as np

from coordinator.cloud.calling import Hop, call_driver, void
from coordinator.cloud.deployment import Deployment, cloud_profile
from coordinator.cloud.invoke import Invoke
from coordinator.cloud.prices import prices
from coordinator.data.blocks import RowBlocks
from coordinator.driver import CANCELLED, POLICIES, Loop, Stops, open_problem
from coordinator.errors import (
    CancelledError,
    InputError,
    JobError,
    JobMissingError,
    LeaseLostError,
    OvercastError,
    one_line,
)
from coordinator.executors.aws import LIMIT, LambdaExecutor
from coordinator.jobs import JobSpec, JobStore, Status
from coordinator.mapping import is_map, run_map
from coordinator.phases import Phase
from coordinator.processes import age
from coordinator.profile import Profile
from coordinator.runtime import Runtime
from coordinator.s3 import S3Storage, Usage
from coordinator.tasks import Task
from sketches import Uncoded

ATTEMPTS: Final = 5  # at a task: memory may have to grow twice
LEFT_OFF: Final = 30  # times that one step may be left off
MARGIN: Final = 10.0  # seconds kept for handing over; with low time limits 15 % of them, but no less than
LEAST_MARGIN: Final = 1.0
SWEEP: Final = 64  # steps whose small inputs are kept


class Context(Protocol):
    """What Lambda tells a call."""

    memory_limit_in_mb: int | str
    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...


class _LeaveError(Exception):
    """Time is up within a step."""


@dataclass
class Clock:
    """The time of one call."""

    remaining: Callable[[], float]  # seconds
    memory: float = 1024.0  # MB
    init: float = 0.0  # seconds of a cold start, which are billed and come before the time limit
    now: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        self.limit = self.remaining()
        self.began = self.now()
        self.margin = min(MARGIN, max(0.15 * self.limit, LEAST_MARGIN))

    @property
    def seconds(self) -> float:
        return self.now() - self.began


def drive(
    event: Any, clock: Clock, deployment: Deployment, storage: S3Storage, invoke: Invoke, call: str = ""
) -> dict[str, Any]:
    """Run a job as far as time allows; what came of it, which the job's status says, too.

    `call` : Lambda's id of this call. Raises StorageError where the job's state cannot be read or written: Lambda then
    has the job woken.
    """
    try:
        hop = Hop.from_event(event)
        store = JobStore(storage)
        spec = store.spec(hop.job)
    except (InputError, JobError) as error:
        return _failed(error)
    owner = f"{secrets.token_hex(8)}.{call}"
    status = store.lease(hop.job, owner, deployment.lease)
    if status is None and call and void(store, hop.job, call):
        # Lambda runs a call again whose environment it has lost; one that it delivered twice stops the other
        status = store.lease(hop.job, owner, deployment.lease)
    if status is None:
        return {"status": 200, "job": hop.job, "state": store.status(hop.job).state, "ran": False}
    run = _Run(hop, clock, deployment, storage, invoke, store, spec, owner, status)
    try:
        state = run.run()
    except LeaseLostError:
        state = "lost"
    return {"status": 200, "job": hop.job, "state": state, "ran": True}


class _Run:
    """One driver's run at a job."""

    def __init__(
        self,
        hop: Hop,
        clock: Clock,
        deployment: Deployment,
        storage: S3Storage,
        invoke: Invoke,
        store: JobStore,
        spec: JobSpec,
        owner: str,
        status: Status,
    ) -> None:
        self.hop, self.clock, self.deployment = hop, clock, deployment
        self.storage, self.invoke, self.store = storage, invoke, store
        self.spec, self.owner, self.status = spec, owner, status
        self.usage: Usage = storage.usage.now()
        self.committed = status.spent  # dollars, but for this driver's own and the step under way
        self.root = f"jobs/{spec.id}/scratch/"
        self.ctx: Runtime | None = None
        self._step, self._counted = 0.0, 0
        self.stops = _Stops(store, spec, run=self)

    def run(self) -> str:
        """The job's state afterwards. Raises LeaseLostError."""
        try:
            self._check()
            done = self._loop()
        except _LeaveError:
            return self._hand_over(self.hop.left_off + 1)
        except CancelledError as error:
            return self._end("cancelled" if str(error) == CANCELLED else "failed", f"{error} before its first iterate")
        except LeaseLostError:
            raise
        except OvercastError as error:
            return self._end("failed", str(error))
        except Exception as error:  # noqa: BLE001  the job must say that it ended, whatever ended it
            return self._end("failed", f"{type(error).__name__}: {one_line(error)}")
        if not done:
            return self._hand_over(0)
        self.storage.delete(self.root.rstrip("/"))
        self.storage.delete(f"jobs/{self.spec.id}/derived")
        return self.store.status(self.spec.id).state

    def _check(self) -> None:
        """InputError for a step that no driver has the time for."""
        if self.hop.left_off > LEFT_OFF:
            raise InputError(
                f"a step did not end within {self.hop.left_off} times the driver's {self.clock.limit:.0f} s; "
                "raise the timeout of the driver's function"
            )

    def _loop(self) -> bool:
        """Whether the job has ended."""
        spec = self.spec
        executor = LambdaExecutor(
            self.invoke,
            self.deployment.workers,
            self.storage,
            limit=spec.workers or LIMIT,
            keep=self.hop.left_off > 0,
            longest=self.deployment.longest,
        )
        with executor:
            ctx = self.ctx = Runtime(
                executor,
                self.storage,
                policy=POLICIES[spec.policy],
                max_attempts=ATTEMPTS,
                prefix=f"{self.root}start",
                stopped=self.stops,
                derived=f"jobs/{spec.id}/derived",
                tidy=False,
            )
            hops = f".{self.status.hops:04d}-{self.owner[:4]}"
            if is_map(spec):
                run_map(self.store, spec, ctx, self._update, root=self.root, run_id=hops)
                return True
            problem = open_problem(self.storage, spec, partial(class_counts, ctx))
            profile = Profile(**spec.profile) if spec.profile is not None else cloud_profile(spec.workers)
            loop = Loop(self.store, spec, ctx, profile, self._update, root=self.root, leave=self._late, run_id=hops)
            return loop.run(problem) is not None

    def spent(self) -> float:
        """Dollars so far: earlier ones, this driver's time and requests, and the tasks of the step under way."""
        used = self.storage.usage.since(self.usage)
        own = prices().call(self.clock.memory, self.clock.init + self.clock.seconds, used.reads, used.writes)
        return self.committed + own + self._step_cost()

    def _step_cost(self) -> float:
        """Dollars of the attempts since the last checkpoint; each is added once."""
        records = self.ctx.records if self.ctx is not None else []
        new = records[self._counted :]
        self._counted += len(new)
        self._step += sum(r.report.cost for r in new if r.report is not None)
        return self._step

    def hold(self, **changes: Any) -> None:
        """Change the job's status and renew the lease."""
        self.status = self.store.hold(self.spec.id, self.owner, **{"expires": self._until(), **changes})

    def _update(self, **changes: Any) -> None:
        """What the loop has to say of the job's status; the step's tasks have been paid."""
        spent = self.spent()
        ended = "ended" in changes
        over = {"owner": "", "expires": None} if ended else {}
        self.hold(spent=spent, falls=0, **(changes | over))
        self.committed += self._step_cost()
        self._step, self._counted = 0.0, 0
        iteration = changes.get("iteration", 0)
        if iteration and iteration % SWEEP == 0:
            for old in range(max(iteration - 2 * SWEEP, 0), iteration - SWEEP):
                self.storage.delete(f"{self.root}{old:06d}")
        if iteration and self.hop.left_off:
            self.hop = Hop(self.hop.job)

    def _late(self, longest: float) -> bool:
        """Whether the next step might not end in time."""
        return self.clock.remaining() < 1.25 * longest + self.clock.margin

    def time_is_up(self) -> None:
        """Raises _LeaveError when there is only time to hand over."""
        if self.clock.remaining() < 0.7 * self.clock.margin:
            raise _LeaveError

    def _hand_over(self, left_off: int) -> str:
        job = self.spec.id
        if left_off and self.ctx is not None:
            tag = f".{self.status.hops:04d}-{self.owner[:4]}-left"
            self.store.save_tasks(job, self.status.iteration + 1, self.ctx.records, tag)
        over: dict[str, Any] = {"state": "queued", "owner": "", "expires": None, "hops": self.status.hops + 1}
        self.store.hold(job, self.owner, spent=self.spent(), falls=0, **over)
        call_driver(self.invoke, self.deployment, Hop(job, left_off))
        return "handed over"

    def _end(self, state: str, message: str) -> str:
        self.hold(state=state, ended=time.time(), message=message, owner="", expires=None, spent=self.spent())
        return state

    def _until(self) -> float:
        return time.time() + self.deployment.lease


@dataclass
class _Stops(Stops):
    """Reasons to stop that need the driver: its lease, its time limit, and what it has spent."""

    run: _Run | None = None
    every: float = 0.5
    _renewed: float = 0.0

    def __call__(self) -> str | None:
        run = self.run
        assert run is not None
        run.time_is_up()
        if run.spec.max_cost is not None and (spent := run.spent()) >= run.spec.max_cost:
            return f"stopped at max_cost, ${run.spec.max_cost:g}, having spent ${spent:.6f}"
        return super().__call__()

    def look(self) -> str | None:
        run = self.run
        assert run is not None
        now = time.perf_counter()
        if now - self._renewed > run.deployment.lease / 4:
            self._renewed = now
            run.hold(spent=run.spent())
        return super().look()


def class_counts(ctx: Runtime, data: RowBlocks) -> dict[str, float]:
    """Rows of each class, by str(class), counted by workers."""
    classes = list(data.classes or ())
    text = bool(classes) and isinstance(classes[0], str)
    params = {"n": len(classes), "text": text, "classes": [] if text else classes}
    tasks = [
        Task("data.classes", f"{ctx.prefix}/classes/{i:05d}", (key,), data.n_features, params=params)
        for i, key in enumerate(data.keys)
    ]
    [found] = ctx.run(Phase("classes#0", tasks, Uncoded(len(tasks))))
    counts = np.sum([count for (count,) in found], axis=0)
    return {str(c): float(n) for c, n in zip(classes, counts, strict=True)}


def _failed(error: OvercastError) -> dict[str, Any]:
    status = 404 if isinstance(error, JobMissingError) else 400
    return {"status": status, "error": {"type": type(error).__name__, "message": str(error)}}


_made: dict[str, Any] = {}


def prepare() -> None:
    """Make clients while Lambda starts the environment, which its time limits do not count."""
    from coordinator.cloud.signed import HttpInvoke

    deployment = Deployment.from_environment()
    _made.update(deployment=deployment, storage=S3Storage(deployment.bucket), invoke=HttpInvoke(LIMIT), init=age())


def handler(event: Any, context: Context) -> dict[str, Any]:
    """What Lambda calls."""
    if not _made:
        prepare()
    memory, init = float(context.memory_limit_in_mb), _made.pop("init", 0.0)
    clock = Clock(lambda: context.get_remaining_time_in_millis() / 1000, memory, init)
    return drive(event, clock, _made["deployment"], _made["storage"], _made["invoke"], context.aws_request_id)


if "AWS_LAMBDA_RUNTIME_API" in os.environ:
    prepare()
