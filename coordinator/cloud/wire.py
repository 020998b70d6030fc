"""What travels between the driver and its workers: requests as JSON, results as the array codec in base64.

A request is {"task": {...}, "key": ..., "store": "large" | "always", "attempt": n, "marked": bool}. `key` is where a
result goes that is stored: the task's output key and a hash of the whole task, so that equal keys are equal results.
The answer is {"status": 200, "result": base64, "report": {...}}, or with "stored": true in place of the result, or
{"status": 4xx or 5xx, "error": {"type", "message"}, "retry": bool}.

Results keep their bits and their memory order: products of transposed matrices may round differently.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from numpy.typing import NDArray

from coordinator import arrays as codec
from coordinator.errors import InputError, StorageError
from coordinator.storage import check_key, version_of
from coordinator.tasks import Arrays, Report, Task

LARGEST: Final = 4_400_000  # bytes that fit, in base64, into an answer of 6 MB
_TURNED: Final = ".T"
_REQUEST: Final[Mapping[str, type]] = {"task": dict, "key": str, "store": str, "attempt": int, "marked": bool}


@dataclass(frozen=True)
class Request:
    """One attempt at a task; see the module. `marked`: the worker says in storage that it began, and how it failed."""

    task: Task
    key: str
    store: str = "large"
    attempt: int = 1
    marked: bool = False

    def to_json(self) -> bytes:
        plain = {name: getattr(self, name) for name in _REQUEST} | {"task": asdict(self.task)}
        return json.dumps(plain, separators=(",", ":")).encode()

    @classmethod
    def from_event(cls, event: Any) -> Request:
        """Check an event; InputError, saying what is wrong, for anything that is not a request."""
        if not isinstance(event, dict) or event.keys() != _REQUEST.keys():
            raise InputError(f"not a request: it must have exactly the fields {', '.join(_REQUEST)}")
        for name, kind in _REQUEST.items():
            if type(event[name]) is not kind:
                raise InputError(f"not a request: {name} must be of type {kind.__name__}")
        if event["store"] not in {"large", "always"} or not 1 <= event["attempt"] <= 1000:
            raise InputError("not a request: store is 'large' or 'always', attempt a number from 1 to 1000")
        task = Task.from_json(_json(event["task"]))
        for key in (event["key"], task.output, *task.blocks, *task.inputs.values()):
            check_key(key)
        if not event["key"].startswith("jobs/") or task.n_features < 0:
            raise InputError("not a request: results go under jobs/, and n_features is >= 0")
        return cls(**(event | {"task": task}))


def stored_key(task: Task) -> str:
    """Where the result of `task` goes when it is stored."""
    return f"{task.output}.{version_of(task.to_json().encode())[:20]}"


def start_key(key: str, attempt: int) -> str:
    """Where attempt n says that it began."""
    return f"{key}.began-{attempt}"


def error_key(key: str, attempt: int) -> str:
    """Where attempt n says how it failed."""
    return f"{key}.error-{attempt}"


def pack(result: Arrays, report: Report | None = None) -> bytes:
    """A result as bytes; the report in its header."""
    named: dict[str, NDArray[Any]] = {}
    for i, array in enumerate(result):
        turned = array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous
        named[f"{i}{_TURNED if turned else ''}"] = array.T if turned else array
    return codec.encode(named, None if report is None else {"report": json.dumps(asdict(report))})


def unpack(data: bytes, where: str = "result") -> Arrays:
    """The arrays of `pack`; StorageError for anything else."""
    named = codec.decode(data, where)
    out = []
    for i, (name, array) in enumerate(named.items()):
        if name not in {f"{i}", f"{i}{_TURNED}"}:
            raise StorageError(f"{where}: not a task's result")
        out.append(array.T if name.endswith(_TURNED) else array)
    return tuple(out)


def packed_report(data: bytes, where: str = "result") -> Report | None:
    """The report in a packed result's header."""
    text = codec.metadata(data, where).get("report")
    return None if text is None else report_from(json.loads(text))


def report_from(raw: Any) -> Report | None:
    """A report from JSON; None for anything else."""
    known = {f.name: str(f.type) for f in fields(Report)}
    if not isinstance(raw, dict) or not raw.keys() <= known.keys():
        return None
    kinds: Mapping[str, Any] = {"bool": bool, "int": int, "float": int | float}
    if not all(isinstance(value, kinds[known[name]]) for name, value in raw.items()):
        return None
    return Report(**raw)


def to_text(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode("ascii")


def from_text(text: Any) -> bytes:
    """Bytes from base64; StorageError for anything else."""
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise StorageError("a worker's answer is damaged: its result is not base64") from None


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"not a request: {error}") from None


__all__ = [
    "LARGEST",
    "Request",
    "error_key",
    "from_text",
    "pack",
    "packed_report",
    "report_from",
    "start_key",
    "stored_key",
    "to_text",
    "unpack",
]
