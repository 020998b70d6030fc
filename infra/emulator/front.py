"""The WSGI application before moto's: invocations, function URLs, S3 faults, and the emulator's own control.

Control, for tests and people, on 127.0.0.1 like all of it:

    GET  /_emulator/health     {"pid": its process id}
    GET  /_emulator/counts     invocations, cold starts, ... by function; S3 requests and bytes by method and folder
    PUT  /_emulator/faults     a fault plan (see faults.py); 400 with one line where it is wrong
    GET  /_emulator/faults     what of the plan has applied
    GET  /_emulator/processes  ids of the processes of execution environments
"""

from __future__ import annotations

import base64
import json
import os
import re
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote

from infra.emulator import access, asynchronous, limits, urls
from infra.emulator.faults import PlanError, parse_plan
from infra.emulator.functions import InvokeError
from infra.emulator.plane import Plane

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

_INVOKE = re.compile(r"/2015-03-31/functions/(?P<name>.+)/invocations/?")
_RECURSION = re.compile(r"/2024-08-31/functions/(?P<name>.+)/recursion-config/?")
_SCOPE = re.compile(r"Credential=[^/]+/\d{8}/([^/]+)/([^/]+)/")
_STATUS = {200: "OK", 202: "Accepted", 204: "No Content", 400: "Bad Request", 403: "Forbidden", 404: "Not Found"}
_SKEWED = "The difference between the request time and the current time is too large."


class Front:
    """Answers what moto does not, and passes the rest on to `moto`."""

    def __init__(self, moto: Application, plane: Plane) -> None:
        self._moto = moto
        self._plane = plane
        self._lock = threading.Lock()
        self._s3: Counter[tuple[str, str, str]] = Counter()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return self._route(environ, start_response)
        except InvokeError as error:
            body = {"Type": "User", "message": str(error)}
            if error.reason:
                body["Reason"] = error.reason
            return _reply(start_response, error.status, body, [("x-amzn-errortype", error.code)])

    def _route(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        host = environ.get("HTTP_HOST", "").rsplit(":", 1)[0]
        if "HTTP_ORIGIN" in environ or host not in {"127.0.0.1", "localhost"}:  # a page in a browser
            raise InvokeError(403, "ForbiddenException", "the emulator answers no browsers")
        if path.startswith("/_emulator/"):
            return self._control(environ, start_response, method, path.removeprefix("/_emulator/"))
        if method == "POST" and (found := _INVOKE.fullmatch(path)):
            return self._invoke(environ, start_response, unquote(found["name"]))
        if found := _RECURSION.fullmatch(path):
            return self._recursion(environ, start_response, unquote(found["name"]))
        if target := urls.target(environ):
            status, headers, answer = urls.call(self._plane, environ, _body(environ), *target)
            start_response(f"{status} {_STATUS.get(status, 'X')}", headers)
            return [answer]
        if _service(environ) == "s3" and _skewed(environ):
            return _xml(start_response, "403 Forbidden", "RequestTimeTooSkewed", _SKEWED)
        if _service(environ) == "s3" and path.count("/") > 1:
            return self._object(environ, start_response, method, unquote(path).split("/", 2)[2])
        return self._moto(environ, start_response)

    # ------------------------------------------------------------------------------------------------------ Lambda

    def _invoke(self, environ: Environ, start_response: StartResponse, name: str) -> Iterable[bytes]:
        body = _body(environ)
        qualifier = parse_qs(environ.get("QUERY_STRING", "")).get("Qualifier", [None])[0]
        model = _model(environ, name, qualifier)
        access.check_lambda(environ, body, "InvokeFunction", model.function_arn)
        kind = environ.get("HTTP_X_AMZ_INVOCATION_TYPE", "RequestResponse")
        limit = limits.ASYNC_REQUEST if kind == "Event" else limits.SYNC_REQUEST
        if len(body) > limit:
            message = f"Request must be smaller than {limit} bytes for the InvokeFunction operation"
            raise InvokeError(413, "RequestTooLargeException", message)
        try:
            json.loads(body or b"{}")
        except ValueError as error:
            message = f"Could not parse request body into json: {error}"
            raise InvokeError(400, "InvalidRequestContentException", message) from None
        if kind == "DryRun":
            return _reply(start_response, 204, None)
        header = environ.get("HTTP_X_AMZN_TRACE_ID", "")
        if kind == "Event":
            asynchronous.deliver(self._plane, model, body or b"{}", header)
            return _reply(start_response, 202, None)
        outcome = self._plane.invoke(model, body or b"{}", header, environ.get("HTTP_X_AMZ_CLIENT_CONTEXT"))
        headers = [("X-Amz-Executed-Version", "$LATEST"), ("x-amzn-RequestId", outcome.request)]
        if outcome.error:
            headers.append(("X-Amz-Function-Error", outcome.error))
        if environ.get("HTTP_X_AMZ_LOG_TYPE") == "Tail":
            tail = base64.b64encode(outcome.log.encode()[-limits.LOG_TAIL :]).decode()
            headers.append(("X-Amz-Log-Result", tail))
        return _reply(start_response, 200, outcome.payload, headers)

    def _recursion(self, environ: Environ, start_response: StartResponse, name: str) -> Iterable[bytes]:
        body = _body(environ)
        model = _model(environ, name, None)
        put = environ["REQUEST_METHOD"] == "PUT"
        action = f"{'Put' if put else 'Get'}FunctionRecursionConfig"
        access.check_lambda(environ, body, action, model.function_arn)
        if put:
            model.recursive_loop = json.loads(body)["RecursiveLoop"]
        return _reply(start_response, 200, {"RecursiveLoop": getattr(model, "recursive_loop", "Terminate")})

    # ---------------------------------------------------------------------------------------------------------- S3

    def _object(self, environ: Environ, start_response: StartResponse, method: str, key: str) -> Iterable[bytes]:
        if self._plane.desk.slow_down(method, key):
            self._count(method, key, "slowed", 0)
            return _xml(start_response, "503 Slow Down", "SlowDown", "Reduce your request rate.")

        def counted(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            size = int(environ.get("CONTENT_LENGTH") or 0) if method == "PUT" else _length(headers)
            self._count(method, key, status.split(" ", 1)[0], 0 if method == "HEAD" else size)
            return start_response(status, headers, *rest)

        return self._moto(environ, counted)

    def _count(self, method: str, key: str, status: str, size: int) -> None:
        folder = key.split("/", 1)[0] + "/" if "/" in key else ""
        with self._lock:
            self._s3[method, folder, status] += 1
            self._s3[method, folder, "bytes"] += size

    # ----------------------------------------------------------------------------------------------------- control

    def _control(self, environ: Environ, start_response: StartResponse, method: str, what: str) -> Iterable[bytes]:
        if (method, what) == ("GET", "health"):
            return _reply(start_response, 200, {"pid": os.getpid()})
        if (method, what) == ("GET", "processes"):
            return _reply(start_response, 200, self._plane.pids())
        if (method, what) == ("GET", "faults"):
            return _reply(start_response, 200, self._plane.desk.applied())
        if (method, what) == ("PUT", "faults"):
            try:
                self._plane.desk.use(parse_plan(json.loads(_body(environ))))
            except (PlanError, ValueError) as error:
                raise InvokeError(400, "PlanError", str(error)) from None
            return _reply(start_response, 200, {"ok": True})
        if (method, what) == ("GET", "counts"):
            with self._lock:
                s3: dict[str, dict[str, int]] = {}
                for (verb, folder, name), count in sorted(self._s3.items()):
                    s3.setdefault(f"{verb} {folder}", {})[name] = count
            return _reply(start_response, 200, {"functions": self._plane.counts(), "s3": s3})
        raise InvokeError(404, "NotFoundException", f"the emulator has no {method} /_emulator/{what}")


def _reply(
    start_response: StartResponse, status: int, body: object, headers: Iterable[tuple[str, str]] = ()
) -> list[bytes]:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    every = {
        "Content-Type": "application/json",
        "x-amzn-RequestId": str(uuid.uuid4()),
        "Content-Length": str(len(data)),
    }
    every.update(headers)
    start_response(f"{status} {_STATUS.get(status, 'X')}", list(every.items()))
    return [data]


def _xml(start_response: StartResponse, status: str, code: str, message: str) -> list[bytes]:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))])
    return [text.encode()]


def _skewed(environ: Environ) -> bool:
    """Whether the request was signed by a clock that is 15 minutes off, or more."""
    try:
        signed = datetime.strptime(environ["HTTP_X_AMZ_DATE"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except (KeyError, ValueError):  # the check of the signature will find it
        return False
    return abs((datetime.now(UTC) - signed).total_seconds()) > 900


def _body(environ: Environ) -> bytes:
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return body


def _length(headers: list[tuple[str, str]]) -> int:
    return sum(int(value) for name, value in headers if name.lower() == "content-length")


def _service(environ: Environ) -> str:
    found = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    return found[2] if found else ""


def _model(environ: Environ, name: str, qualifier: str | None) -> Any:
    """Moto's model of a function; InvokeError (404) where there is none."""
    from moto.awslambda.utils import get_backend
    from moto.core.exceptions import JsonRESTError

    found = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    region = name.split(":")[3] if name.startswith("arn:") else found[1] if found else limits.REGION
    try:
        return get_backend(limits.ACCOUNT, region).get_function(name, qualifier)
    except JsonRESTError:
        arn = name if name.startswith("arn:") else f"arn:aws:lambda:{region}:{limits.ACCOUNT}:function:{name}"
        raise InvokeError(404, "ResourceNotFoundException", f"Function not found: {arn}") from None
