"""Function URLs: http://127.0.0.1:PORT/_url/ID/path, signed for the service "lambda", as an event of version 2.0.

A real function URL is a host name of its own; here it is a folder of the emulator, because names under on.aws or
localhost do not resolve everywhere. The path that the function sees begins after the folder.
https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
"""

from __future__ import annotations

import base64
import json
import re
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from infra.emulator import access, limits
from infra.emulator.functions import InvokeError
from infra.emulator.plane import Plane

_PATH = re.compile(r"/_url/(?P<id>[0-9a-f]{32})(?P<path>/.*)?")


def local_url(endpoint: str, public: str) -> str:
    """The URL here of a function whose URL on AWS would be `public`."""
    return f"{endpoint}/_url/{public.removeprefix('https://').split('.', 1)[0]}/"


def target(environ: dict[str, Any]) -> tuple[str, str] | None:
    """Id of the function URL that a request is for, and the path below it."""
    found = _PATH.fullmatch(environ.get("PATH_INFO", ""))
    return (found["id"], found["path"] or "/") if found else None


def call(
    plane: Plane, environ: dict[str, Any], body: bytes, name: str, path: str
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body of the function's answer."""
    model = _find(name)
    if model is None:
        return _plain(404, b'{"Message":null}')
    caller = ""
    if model.url_config.config.get("AuthType") != "NONE":
        try:
            caller = access.check_url(environ, body, model.function_arn)
        except InvokeError:
            return _plain(403, b'{"Message":"Forbidden"}')
    try:
        if len(body) > limits.SYNC_REQUEST:
            return _plain(413, b'{"Message":"Request Entity Too Large"}')
        event = json.dumps(_event(environ, body, name, path, caller)).encode()
        outcome = plane.invoke(model, event, environ.get("HTTP_X_AMZN_TRACE_ID", ""))
    except InvokeError as error:
        return _plain(error.status, json.dumps({"Message": str(error)}).encode())
    if outcome.error:
        return _plain(502, b"Internal Server Error")
    return _unpacked(json.loads(outcome.payload))


def _find(name: str) -> Any:
    from moto.awslambda.models import lambda_backends

    for backend in list(lambda_backends[limits.ACCOUNT].values()):
        for model in backend.list_functions():
            if model.url_config is not None and name in model.url_config.url:
                return model
    return None


def _event(environ: dict[str, Any], body: bytes, name: str, path: str, caller: str) -> dict[str, Any]:
    headers = {k[5:].replace("_", "-").lower(): v for k, v in environ.items() if k.startswith("HTTP_")}
    for key, header in (("CONTENT_TYPE", "content-type"), ("CONTENT_LENGTH", "content-length")):
        if environ.get(key):
            headers[header] = environ[key]
    query: dict[str, str] = {}
    for key, value in parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True):
        query[key] = f"{query[key]},{value}" if key in query else value
    try:
        text, encoded = body.decode(), False
    except UnicodeDecodeError:
        text, encoded = base64.b64encode(body).decode(), True
    http = {
        "method": environ["REQUEST_METHOD"],
        "path": path,
        "protocol": "HTTP/1.1",
        "sourceIp": environ.get("REMOTE_ADDR", "127.0.0.1"),
        "userAgent": headers.get("user-agent", ""),
    }
    now = time.time()
    context: dict[str, Any] = {
        "accountId": limits.ACCOUNT,
        "apiId": name,
        "http": http,
        "routeKey": "$default",
        "stage": "$default",
        "time": f"{datetime.fromtimestamp(now, UTC):%d/%b/%Y:%H:%M:%S +0000}",
        "timeEpoch": int(1000 * now),
    }
    if caller:
        context["authorizer"] = {"iam": {"accountId": limits.ACCOUNT, "userArn": caller}}
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": environ.get("QUERY_STRING", ""),
        "headers": headers,
        "requestContext": context,
        "isBase64Encoded": encoded,
    }
    if query:
        event["queryStringParameters"] = query
    if body:
        event["body"] = text
    return event


def _unpacked(answer: Any) -> tuple[int, list[tuple[str, str]], bytes]:
    if not isinstance(answer, dict) or "statusCode" not in answer:
        return _plain(200, json.dumps(answer).encode())
    text = answer.get("body") or ""
    body = base64.b64decode(text) if answer.get("isBase64Encoded") else str(text).encode()
    headers = {str(name).lower(): str(value) for name, value in (answer.get("headers") or {}).items()}
    headers.setdefault("content-type", "application/json")
    headers["content-length"] = str(len(body))
    return int(answer["statusCode"]), list(headers.items()), body


def _plain(status: int, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    return status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))], body
