"""How an invocation ended, and the words in which Lambda says so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum

from infra.emulator import limits
from infra.emulator.functions import Function


class How(Enum):
    """The ends that Lambda tells apart."""

    OK = "ok"
    ERROR = "error"  # the handler raised
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out of memory"
    EXIT = "exit"
    TOO_LARGE = "too large"


@dataclass(frozen=True)
class Ending:
    """`body` is the handler's answer or error; `code` the process's exit code, where it ended."""

    how: How
    body: bytes = b""
    code: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What the caller gets: the payload, FunctionError or None, the log of this call, the request's id."""

    payload: bytes
    error: str | None
    log: str
    request: str


def payload(ending: Ending, function: Function, request: str) -> tuple[bytes, str | None]:
    """The payload and FunctionError of an ending."""
    if ending.how is How.OK:
        return ending.body, None
    if ending.how is How.ERROR:
        return ending.body, "Unhandled"
    if ending.how is How.TIMEOUT:
        kind, text = "Sandbox.Timedout", f"Error: Task timed out after {function.timeout:.2f} seconds"
    elif ending.how is How.OUT_OF_MEMORY:
        kind, text = "Runtime.OutOfMemory", "Error: Runtime exited with error: signal: killed"
    elif ending.how is How.TOO_LARGE:
        kind = "Function.ResponseSizeTooLarge"
        text = f"Response payload size exceeded maximum allowed payload size ({limits.SYNC_RESPONSE} bytes)."
        return json.dumps({"errorMessage": text, "errorType": kind}).encode(), "Unhandled"
    else:
        code = ending.code or 0
        text = "Error: Runtime exited with error: " + ("signal: killed" if code < 0 else f"exit status {code}")
        if code == 0:
            text = "Error: Runtime exited without providing a reason"
        kind = "Runtime.ExitError"
    return json.dumps({"errorType": kind, "errorMessage": f"RequestId: {request} {text}"}).encode(), "Unhandled"


def log_text(
    function: Function, request: str, printed: list[str], seconds: float, peak: int, init: float | None, how: How
) -> list[str]:
    """Log lines of a call: START, what was printed, END, REPORT. `peak` in bytes, `init` seconds of a cold start."""
    lines = [f"START RequestId: {request} Version: {function.version}", *printed, f"END RequestId: {request}"]
    report = (
        f"REPORT RequestId: {request}\tDuration: {1000 * seconds:.2f} ms\tBilled Duration: {int(1000 * seconds) + 1} ms"
        f"\tMemory Size: {function.memory} MB\tMax Memory Used: {peak >> 20} MB"
    )
    if init is not None:
        report += f"\tInit Duration: {1000 * init:.2f} ms"
    if how in {How.TIMEOUT, How.OUT_OF_MEMORY}:
        report += f"\tStatus: {'timeout' if how is How.TIMEOUT else 'error'}"
    if how is How.OUT_OF_MEMORY:
        report += "\tError Type: Runtime.OutOfMemory"
    return [*lines, report]
