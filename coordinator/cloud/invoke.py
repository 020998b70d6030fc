"""Calls of Lambda functions, and what the service answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Protocol

from coordinator.errors import one_line

_BUSY: Final = {429, 500, 502, 503, 504}
_OUT_OF_MEMORY: Final = ("OutOfMemory", "signal: killed", "out of memory")
_REMEDIES: Final = {
    403: "the caller's role may not invoke it; see the policies of the deployment",
    404: "deploy first, or check OVERCAST_WORKERS",
    413: "the task's parameters are larger than Lambda takes",
}


@dataclass(frozen=True)
class Reply:
    """What the Lambda service answered: HTTP status, body, and whether the function failed ("" or the kind)."""

    status: int
    body: bytes
    failed: str = ""

    @property
    def busy(self) -> bool:
        """The call was refused, and may be made again."""
        return self.status in _BUSY

    @property
    def said(self) -> str:
        """Why the service refused the call."""
        found = fields(self.body)
        return one_line(found.get("message") or found.get("Message") or f"HTTP {self.status}", 200)

    def refusal(self, function: str) -> str:
        """One line for a call that it is no use to make again."""
        remedy = _REMEDIES.get(self.status, "see the function in the AWS console")
        return f"cannot call {function}: {self.said}: {remedy}"

    @property
    def crash(self) -> str:
        """How a failed function's process ended: killed, timed out, or could not be started."""
        found = fields(self.body)
        said = (str(found.get("errorType", "")), one_line(found.get("errorMessage", ""), 300))
        return ": ".join(filter(None, said))

    @property
    def out_of_memory(self) -> bool:
        """A failed function's process had too little memory."""
        return any(word in self.crash for word in _OUT_OF_MEMORY)


class Invoke(Protocol):
    """Calls a function: waits for its answer, or only hands the call in. OSError when the connection is lost."""

    def __call__(self, function: str, payload: bytes, *, wait: bool, timeout: float) -> Reply: ...


def fields(body: bytes) -> dict[str, Any]:
    """The fields of a JSON object; none for anything else."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


__all__ = ["Invoke", "Reply", "fields"]
