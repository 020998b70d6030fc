"""Log groups and streams of functions, in moto's CloudWatch Logs."""

from __future__ import annotations

import threading
import time
from typing import Any

_LOCK = threading.Lock()  # moto's backend is not made for threads


def write(model: Any, stream: str, lines: list[str]) -> None:
    """Append lines to a stream of the function's log group; both are made where missing."""
    backend, group = model.logs_backend, model.logs_group_name
    now = int(time.time() * 1000)
    with _LOCK:
        backend.ensure_log_group(group)
        if stream not in backend.groups[group].streams:
            backend.create_log_stream(group, stream)
        backend.put_log_events(group, stream, [{"timestamp": now, "message": line} for line in lines])
