"""Fixtures of the tests of the emulator and of deployments: tiny handlers, functions, roles."""

from __future__ import annotations

import io
import json
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infra.emulator.client import Emulator
from infra.emulator.functions import host_runtime


@dataclass(frozen=True)
class Answer:
    """Of an invocation: `body` decoded, `error` is FunctionError, `log` its tail."""

    body: Any
    error: str | None
    log: str


@dataclass(frozen=True)
class Deployed:
    """A function on the emulator."""

    name: str
    emulator: Emulator

    def invoke(self, event: object = None, kind: str = "RequestResponse") -> Answer:
        import base64

        given = self.emulator.client("lambda").invoke(
            FunctionName=self.name, Payload=json.dumps(event or {}), InvocationType=kind, LogType="Tail"
        )
        body = given["Payload"].read()
        log = base64.b64decode(given.get("LogResult", "")).decode()
        return Answer(json.loads(body) if body else None, given.get("FunctionError"), log)


def _package(source: str) -> bytes:
    """A zip with `source` as handler.py."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("handler.py", source)
    return out.getvalue()


@pytest.fixture
def package() -> Callable[[str], bytes]:
    """A zip with the source as handler.py."""
    return _package


def _refused(call: Callable[[], Any]) -> tuple[int, str, str]:
    with pytest.raises(ClientError) as error:
        call()
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"], response["Error"]["Message"]


def _eventually(check: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for what processes do in their own time."""
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def refused() -> Callable[[Callable[[], Any]], tuple[int, str, str]]:
    """Status, code and message of the error that a call raises."""
    return _refused


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Waits until a check holds; for what processes do in their own time."""
    return _eventually


@pytest.fixture
def role(emulator: Emulator) -> Callable[[list[Mapping[str, Any]]], str]:
    """Makes a role with these policy statements; gives its ARN."""
    iam = emulator.client("iam")

    def make(statements: list[Mapping[str, Any]]) -> str:
        name = f"role-{uuid.uuid4().hex[:8]}"
        trust = {
            "Statement": [
                {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
            ]
        }
        arn: str = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
        if statements:
            document = json.dumps({"Version": "2012-10-17", "Statement": statements})
            iam.put_role_policy(RoleName=name, PolicyName="policy", PolicyDocument=document)
        return arn

    return make


@pytest.fixture
def deploy(emulator: Emulator, role: Callable[[list[Mapping[str, Any]]], str]) -> Iterator[Callable[..., Deployed]]:
    """Makes functions of handler source; they go with the test, and all faults with them."""
    client = emulator.client("lambda")
    made = []

    def make(
        source: str, *, memory: int = 256, timeout: int = 10, statements: list[Mapping[str, Any]] | None = None
    ) -> Deployed:
        name = f"f-{uuid.uuid4().hex[:8]}"
        client.create_function(
            FunctionName=name,
            Runtime=host_runtime(),
            Role=role(statements or []),
            Handler="handler.handler",
            Code={"ZipFile": _package(source)},
            MemorySize=memory,
            Timeout=timeout,
        )
        made.append(name)
        return Deployed(name, emulator)

    yield make
    emulator.faults()
    for name in made:
        client.delete_function(FunctionName=name)
