"""Asynchronous invocations: delivered by a thread each, retried after throttles and after errors."""

from __future__ import annotations

import threading
from typing import Any

from infra.emulator import trace
from infra.emulator.functions import Function, InvokeError
from infra.emulator.plane import Plane


def deliver(plane: Plane, model: Any, payload: bytes, header: str) -> None:
    """Start it and return. A chain that has called this function too often is dropped, as Lambda does."""
    function = plane.read(model)
    try:
        trace.passed_on(header, function)
    except InvokeError:
        return
    threading.Thread(target=_attempts, args=(plane, model, function, payload, header), daemon=True).start()


def _attempts(plane: Plane, model: Any, function: Function, payload: bytes, header: str) -> None:
    failures = 0
    while not plane.stopping.is_set():
        try:
            outcome = plane.invoke(model, payload, header)
        except InvokeError as error:
            if error.status != 429:
                return
        else:
            failures += outcome.error is not None
            if outcome.error is None or failures > function.retries:
                return
        plane.stopping.wait(plane.settings.retry * max(failures, 1))
