"""Asynchronous invocations: delivered by a thread each, retried after throttles and after errors.

One that has failed for good is told to the function's on-failure destination, which is another function here, as an
asynchronous invocation of that.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from infra.emulator import access, trace
from infra.emulator.endings import Outcome
from infra.emulator.functions import Function, InvokeError
from infra.emulator.plane import Plane


@dataclass
class _Event:
    """One on its way. All attempts at it have the same id."""

    payload: bytes
    header: str
    id: str
    attempts: int = 0


def deliver(plane: Plane, model: Any, payload: bytes, header: str) -> None:
    """Start it and return. A chain that has called this function too often is dropped, as Lambda does."""
    function = plane.read(model)
    try:
        trace.passed_on(header, function)
    except InvokeError:
        return
    event = _Event(payload, header, str(uuid.uuid4()))
    threading.Thread(target=_run, args=(plane, model, function, event), daemon=True).start()


def _run(plane: Plane, model: Any, function: Function, event: _Event) -> None:
    until = time.monotonic() + function.age
    failures = 0
    while not plane.stopping.is_set():
        try:
            outcome = plane.invoke(model, event.payload, event.header, request=event.id)
        except InvokeError as error:
            if error.status != 429:
                return
            if time.monotonic() > until:
                _fail(plane, model, function, event, "EventAgeExceeded", None)
                return
        else:
            event.attempts += 1
            failures += outcome.error is not None
            if outcome.error is None:
                return
            if failures > function.retries:
                _fail(plane, model, function, event, "RetriesExhausted", outcome)
                return
        plane.stopping.wait(plane.settings.retry * max(failures, 1))


def _fail(plane: Plane, model: Any, function: Function, event: _Event, condition: str, outcome: Outcome | None) -> None:
    """Tell the destination, if there is one, which the role of `function` must be allowed to invoke."""
    if not function.on_failure:
        return
    target = _target(model, function.on_failure)
    if target is None or not access.role_may(
        function.role, function.region, "lambda:InvokeFunction", function.on_failure
    ):
        plane.undelivered(function)
        return
    record: dict[str, Any] = {
        "version": "1.0",
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "requestContext": {
            "requestId": event.id,
            "functionArn": f"{function.arn}:{function.version}",
            "condition": condition,
            "approximateInvokeCount": event.attempts,
        },
        "requestPayload": json.loads(event.payload),
    }
    if outcome is not None:
        record["responseContext"] = {
            "statusCode": 200,
            "executedVersion": function.version,
            "functionError": outcome.error,
        }
        record["responsePayload"] = json.loads(outcome.payload)
    deliver(plane, target, json.dumps(record).encode(), event.header)


def _target(model: Any, arn: str) -> Any:
    """Moto's model of the function with this ARN; None where there is none."""
    from moto.awslambda.utils import get_backend
    from moto.core.exceptions import JsonRESTError

    try:
        return get_backend(model.account_id, arn.split(":")[3]).get_function(arn)
    except (JsonRESTError, IndexError):
        return None
