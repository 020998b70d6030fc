"""Calls of the driver: made, and made again when a driver has ended without a word.

Lambda tells the api's function, as the driver's on-failure destination, of every call that failed: by a crash, a time
limit or its memory, or because it could not be run in time. The lease of that call is void then, and another driver
goes on from the newest checkpoint at once. Should that word be lost, whoever looks at the job once the lease has run
out calls a driver, too. A job whose drivers only end so has failed.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from coordinator.cloud.deployment import Deployment
from coordinator.cloud.invoke import Invoke, Reply
from coordinator.errors import InputError, LeaseLostError, StorageError, one_line
from coordinator.jobs import JobStore, Status

FALLS: Final = 4  # drivers that may end without a word at one iteration
UNHEARD: Final = 1.0  # leases' time after which a driver that was called and has not begun is called again


@dataclass(frozen=True)
class Hop:
    """A call of the driver: the job, and how often its present step was left off."""

    job: str
    left_off: int = 0

    @classmethod
    def from_event(cls, event: Any) -> Hop:
        """InputError for anything that is not {"job": id} or {"job": id, "left_off": n}."""
        if not isinstance(event, dict) or not {"job"} <= event.keys() <= {"job", "left_off"}:
            raise InputError('not a call of the driver: it takes {"job": id}')
        left_off = event.get("left_off", 0)
        if not isinstance(event["job"], str) or type(left_off) is not int or not 0 <= left_off <= 10**6:
            raise InputError('not a call of the driver: "job" is a text, "left_off" a number')
        return cls(event["job"], left_off)

    def to_json(self) -> bytes:
        return json.dumps({"job": self.job, "left_off": self.left_off}).encode()


@dataclass(frozen=True)
class Failure:
    """A call of the driver that has failed: what was called, Lambda's id of the call, and why, in a line."""

    hop: Hop
    call: str
    why: str

    @classmethod
    def from_event(cls, event: Any) -> Failure | None:
        """From the record that Lambda sends to an on-failure destination; None for any other event.

        InputError for the record of what was no call of the driver.
        """
        about = event.get("requestContext") if isinstance(event, dict) else None
        if not isinstance(about, dict) or not {"condition", "requestId"} <= about.keys():
            return None
        why = Reply(200, json.dumps(event.get("responsePayload")).encode()).crash
        if not why:
            why = "no free concurrency in time" if about["condition"] == "EventAgeExceeded" else str(about["condition"])
        return cls(Hop.from_event(event.get("requestPayload")), str(about["requestId"]), one_line(why, 200))


def call_driver(invoke: Invoke, deployment: Deployment, hop: Hop) -> None:
    """Call the driver asynchronously. StorageError when Lambda does not take the call."""
    said = ""
    for attempt in range(6):
        try:
            reply = invoke(deployment.driver, hop.to_json(), wait=False, timeout=30.0)
        except OSError as error:
            said = str(error)
        else:
            if reply.status == 202:
                return
            said = f"HTTP {reply.status} {reply.body[:200].decode('utf-8', 'replace')}"
            if not reply.busy:
                break
        if attempt < 5:
            time.sleep(0.1 * 2**attempt)
    raise StorageError(f"cannot call the driver {deployment.driver}: {said}")


def void(store: JobStore, job: str, call: str) -> bool:
    """Let the lease run out that the driver of `call` holds, for that call has ended; whether it held one."""
    status = store.status(job)
    if status.state != "running" or not status.owner.endswith(f".{call}"):
        return False
    with suppress(LeaseLostError):
        store.hold(job, status.owner, expires=0.0)
    return True


def wake(store: JobStore, deployment: Deployment, invoke: Invoke, job: str, failure: Failure | None = None) -> Status:
    """The job's status, after calling another driver where the last has died or was never heard of.

    `failure` : the call that is known to have failed. The job has failed after more than FALLS deaths without a
    checkpoint in between. StorageError when the driver cannot be called.
    """
    if failure is not None:
        void(store, job, failure.call)
    status = store.status(job)
    fallen = status.state == "interrupted" and status.expires is not None
    if status.state == "queued":
        fallen = failure is not None  # before it took the lease, or after it gave it back
        if not fallen and time.time() - (status.updated or 0.0) <= UNHEARD * deployment.lease:
            return status
    elif not fallen:
        return status
    newest = max(store.newest(job), status.iteration)
    falls = fallen + (status.falls if newest == status.iteration else 0)
    changes: dict[str, Any] = {"iteration": newest, "falls": falls, "owner": "", "expires": None}
    if falls > FALLS:
        last = "" if failure is None else f" (the last: {failure.why})"
        message = (
            f"{falls} drivers in a row ended without a word after iteration {newest}{last}; "
            "see the log of the driver's function, and give it more memory if it ran out"
        )
        changes |= {"state": "failed", "ended": time.time(), "message": message}
    else:
        changes |= {"state": "queued", "message": "called again"}
    status = store.update(job, when=("queued", "interrupted"), **changes)
    if status.state == "queued":
        call_driver(invoke, deployment, Hop(job) if failure is None else failure.hop)
    return status
