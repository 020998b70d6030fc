"""The interface behind the function URL: submit, quote, look, cancel, clean, in JSON over HTTP with IAM signatures.

    GET    /versions              what is deployed, and where its data go
    POST   /jobs                  {"spec": {...}}: check, store, start
    POST   /quote                 {"spec": {...}}: what it would take
    GET    /jobs                  the newest jobs
    GET    /jobs/ID               spec and status; a job whose driver has died goes on from here
    GET    /jobs/ID/events?since= figures of the iterations after `since`
    GET    /jobs/ID/result        what it found
    POST   /jobs/ID/cancel        stop, keeping the best iterate
    POST   /jobs/ID/resume        go on after a failure or cancel
    DELETE /jobs/ID               delete everything of it

Whatever is wrong with a request is answered by a status from 400 to 499 and {"error": {"type", "message"}}. Clients
send their version in `x-overcast-version`; other versions than the deployment's are told which of the two to upgrade.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from coordinator import arrays as codec
from coordinator.cloud import wire
from coordinator.cloud.calling import Failure, Hop, call_driver, wake
from coordinator.cloud.deployment import Deployment, cloud_profile
from coordinator.cloud.invoke import Invoke
from coordinator.cloud.quote import make_quote
from coordinator.driver import check_spec
from coordinator.errors import (
    ConflictError,
    InputError,
    JobError,
    JobMissingError,
    KeyMissingError,
    OvercastError,
    StorageError,
)
from coordinator.jobs import JobSpec, JobStore, Status, new_id
from coordinator.linear_program import LinearProgram
from coordinator.listing import list_jobs
from coordinator.problem import Problem
from coordinator.results import load_result
from coordinator.s3 import S3Storage

MOST_JOBS: Final = 100
MOST_EVENTS: Final = 500
MOST_BYTES: Final = 1 << 20  # of a request's body
_SPEC: Final[Mapping[str, tuple[type, ...]]] = {
    "id": (str, type(None)),
    "data": (str,),
    "problem": (dict,),
    "solver": (str,),
    "settings": (dict,),
    "workers": (int, type(None)),
    "profile": (dict, type(None)),
    "start": (str, type(None)),
    "policy": (str,),
    "max_cost": (int, float, type(None)),
    "deadline": (int, float, type(None)),
}
_MISTAKES: Final = (TypeError, KeyError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError)


class VersionError(OvercastError):
    """Client and deployment are of different versions."""


class _NotFoundError(OvercastError):
    """No such path, or not with this method."""


class Api:
    """Answers requests on one deployment's jobs."""

    def __init__(self, deployment: Deployment, storage: S3Storage, invoke: Invoke) -> None:
        self._deployment, self._storage, self._invoke = deployment, storage, invoke
        self._store = JobStore(storage)

    def answer(self, event: Any) -> dict[str, Any]:
        """The response to a function-URL event, format 2.0."""
        try:
            return _say(200, self._route(event))
        except OvercastError as error:
            return _say(_status(error), {"error": {"type": type(error).__name__.lstrip("_"), "message": _line(error)}})
        except Exception as error:  # noqa: BLE001  callers see no stack trace; the log does
            print(f"overcast: {type(error).__name__}: {error}")
            return _say(500, {"error": {"type": "InternalError", "message": "see the log of the api's function"}})

    def wake(self, failure: Failure) -> None:
        """Call another driver after one that failed. StorageError where that cannot be: Lambda tries again."""
        with suppress(JobMissingError):  # deleted meanwhile
            wake(self._store, self._deployment, self._invoke, failure.hop.job, failure)

    def _route(self, event: Any) -> Any:
        method, path, query, headers = _request(event)
        self._check_version(headers)
        for wanted, pattern, run in self._routes:
            if (found := re.fullmatch(pattern, path)) is None or wanted != method:
                continue
            return run(self, _Call(event, query, found.groupdict().get("job", "")))
        raise _NotFoundError(f"no {method} {path[:100]!r} here")

    def _check_version(self, headers: Mapping[str, str]) -> None:
        client, here = headers.get("x-overcast-version"), self._deployment.version
        if client is None or _minor(client) == _minor(here):
            return
        if _minor(client) > _minor(here):
            raise VersionError(f"client {client[:40]} is newer than deployment {here}: deploy again from that version")
        raise VersionError(f"client {client[:40]} is older than deployment {here}: pip install 'overcast=={here}'")

    # -- what is asked ----------------------------------------------------------------------------------------------

    def _versions(self, call: _Call) -> Any:  # noqa: ARG002
        return {
            "version": self._deployment.version,
            "stage": self._deployment.stage,
            "bucket": self._deployment.bucket,
            "region": os.environ.get("AWS_REGION", ""),
        }

    def _submit(self, call: _Call) -> Any:
        spec, problem = self._checked(call)
        self._store.create(spec)
        with suppress(InputError):  # a job that will hardly do may be tried
            self._store.save_quote(spec.id, make_quote(spec, problem, self._deployment.memory).to_json())
        call_driver(self._invoke, self._deployment, Hop(spec.id))
        return {"id": spec.id, "status": asdict(self._store.status(spec.id))}

    def _quote(self, call: _Call) -> Any:
        spec, problem = self._checked(call)
        return make_quote(spec, problem, self._deployment.memory).to_json()

    def _list(self, call: _Call) -> Any:  # noqa: ARG002
        return {"jobs": [asdict(seen) for seen in list_jobs(self._store, MOST_JOBS)]}

    def _look(self, call: _Call) -> Any:
        spec = self._store.spec(_job(call.job))
        return {"spec": asdict(spec), "status": asdict(self._awake(spec.id))}

    def _events(self, call: _Call) -> Any:
        self._store.spec(_job(call.job))
        text = call.query.get("since", "-1")
        if not re.fullmatch(r"-?\d{1,9}", text, re.ASCII):
            raise InputError("since must be a whole number")
        rows = self._store.events(call.job, int(text))[:MOST_EVENTS]
        return {"events": rows, "status": asdict(self._awake(call.job))}

    def _result(self, call: _Call) -> Any:
        self._store.spec(_job(call.job))
        result = load_result(self._storage, call.job)
        plain = {name: value for name, value in vars(result).items() if name not in {"coef_", "intercept_"}}
        arrays = {"coef": result.coef_, "intercept": np.asarray(result.intercept_, dtype=np.float64)}
        if sum(array.nbytes for array in arrays.values()) > wire.LARGEST // 2:
            return {"stored": True}
        return {"plain": plain, "arrays": wire.to_text(codec.encode(arrays))}

    def _cancel(self, call: _Call) -> Any:
        job = self._store.spec(_job(call.job)).id
        if not self._store.status(job).final:
            with suppress(ConflictError):
                self._storage.put(self._store.key(job, "cancel"), b"")
            if self._store.status(job).state != "running":
                call_driver(self._invoke, self._deployment, Hop(job))  # it saves the best iterate, and ends
        return {"status": asdict(self._store.status(job))}

    def _resume(self, call: _Call) -> Any:
        job = self._store.spec(_job(call.job)).id
        status = self._store.status(job)
        if status.state == "done":
            raise JobError(f"job {job} is done: a new one may start from it, with start={job!r}")
        if status.state == "running":
            raise JobError(f"job {job} runs already: wait for it, or cancel it")
        self._store.reopen(job)
        self._store.update(job, when=("interrupted",), state="queued", message="", falls=0)
        call_driver(self._invoke, self._deployment, Hop(job))
        return {"status": asdict(self._store.status(job))}

    def _clean(self, call: _Call) -> Any:
        return {"deleted": self._store.clean(_job(call.job))}

    _routes: Final[tuple[tuple[str, str, Callable[[Api, _Call], Any]], ...]] = (
        ("GET", "/versions", _versions),
        ("POST", "/jobs", _submit),
        ("POST", "/quote", _quote),
        ("GET", "/jobs", _list),
        ("GET", "/jobs/(?P<job>[^/]+)", _look),
        ("GET", "/jobs/(?P<job>[^/]+)/events", _events),
        ("GET", "/jobs/(?P<job>[^/]+)/result", _result),
        ("POST", "/jobs/(?P<job>[^/]+)/cancel", _cancel),
        ("POST", "/jobs/(?P<job>[^/]+)/resume", _resume),
        ("DELETE", "/jobs/(?P<job>[^/]+)", _clean),
    )

    def _checked(self, call: _Call) -> tuple[JobSpec, Problem | LinearProgram]:
        """The spec of a request's body and its problem."""
        raw = call.body().get("spec")
        if not isinstance(raw, dict):
            raise InputError('the body must be {"spec": {...}}')
        for name, value in raw.items():
            if name not in _SPEC or type(value) not in _SPEC[name]:
                raise InputError(f"spec: {str(name)[:40]!r} is no field of a job, or of another type")
        if missing := [name for name in ("data", "problem", "solver") if name not in raw]:
            raise InputError(f"spec: {missing[0]} is missing")
        job = _job(raw.get("id") or new_id())
        self._store.check_id(job)
        spec = JobSpec(**(raw | {"id": job, "version": self._deployment.version}))
        if spec.profile is None:
            spec = JobSpec(**(asdict(spec) | {"profile": asdict(cloud_profile(spec.workers))}))
        elif not all(type(v) in {int, float} and 0 < v < 1e18 for v in spec.profile.values()):
            raise InputError("spec: the profile's rates must be numbers above 0")
        try:
            type(cloud_profile())(**dict(spec.profile or {}))
            return spec, check_spec(self._storage, spec)
        except _MISTAKES as error:
            raise InputError(f"spec: {type(error).__name__}: {_line(error)[:200]}") from None
        except KeyMissingError as error:
            raise InputError(f"spec: {error}") from None

    def _awake(self, job: str) -> Status:
        return wake(self._store, self._deployment, self._invoke, job)


class _Call:
    """A request on its way."""

    def __init__(self, event: Mapping[str, Any], query: Mapping[str, str], job: str) -> None:
        self._event, self.query, self.job = event, query, job

    def body(self) -> dict[str, Any]:
        """The body's JSON object."""
        text = self._event.get("body") or ""
        if not isinstance(text, str) or len(text) > MOST_BYTES:
            raise InputError(f"the body must be text of at most {MOST_BYTES} bytes")
        try:
            data = base64.b64decode(text, validate=True) if self._event.get("isBase64Encoded") else text.encode()
            found = json.loads(data, parse_constant=_no_constant)
        except (ValueError, RecursionError, binascii.Error) as error:
            raise InputError(f"the body is not JSON: {_line(error)[:200]}") from None
        if not isinstance(found, dict):
            raise InputError("the body must be a JSON object")
        return found


def _request(event: Any) -> tuple[str, str, Mapping[str, str], Mapping[str, str]]:
    """Method, path, query and headers. InputError for what is no request."""
    try:
        http = event["requestContext"]["http"]
        method, path = http["method"], event["rawPath"]
        query, headers = event.get("queryStringParameters") or {}, event.get("headers") or {}
        texts = [method, path, *query, *query.values(), *headers, *headers.values()]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError
    except _MISTAKES:
        raise InputError("not a request of a function URL") from None
    return method, path.rstrip("/") or "/", query, {name.lower(): value for name, value in headers.items()}


def _job(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{3,60}", text, re.ASCII):
        raise InputError(f"bad job id {text[:80]!r}: use 4 to 60 small letters, digits and '-'")
    return text


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _minor(text: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(n[:9]) for n in re.findall(r"\d+", text, re.ASCII)[:2])


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _status(error: OvercastError) -> int:
    kinds: tuple[tuple[type[OvercastError], int], ...] = (
        (JobMissingError, 404),
        (_NotFoundError, 404),
        (VersionError, 409),
        (InputError, 400),
        (JobError, 409),
        (ConflictError, 409),
        (KeyMissingError, 404),
        (StorageError, 503),
    )
    return next((status for kind, status in kinds if isinstance(error, kind)), 422)


def _say(status: int, body: Any) -> dict[str, Any]:
    text = json.dumps(body, separators=(",", ":"), default=_plain)
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": text}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


_made: dict[str, Api] = {}


def prepare() -> None:
    """Make clients while Lambda starts the environment, which its time limits do not count."""
    from coordinator.cloud.signed import HttpInvoke

    deployment = Deployment.from_environment()
    _made["api"] = Api(deployment, S3Storage(deployment.bucket), HttpInvoke(4))


def handler(event: Any, context: Any = None) -> dict[str, Any] | None:  # noqa: ARG001  Lambda's signature
    """What Lambda calls: for a request, and as the destination of the driver's failed calls."""
    if not _made:
        prepare()
    if (failure := Failure.from_event(event)) is None:
        return _made["api"].answer(event)
    _made["api"].wake(failure)
    return None


if "AWS_LAMBDA_RUNTIME_API" in os.environ:
    prepare()
