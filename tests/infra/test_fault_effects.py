"""Faults as callers meet them on the running emulator."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infra.emulator.client import Emulator

Refused = Callable[[Callable[[], Any]], tuple[int, str, str]]
Eventually = Callable[..., None]

NOTE = """
import boto3, time, uuid
s3 = boto3.client("s3")
def handler(event, context):
    s3.put_object(Bucket=event["bucket"], Key="done/" + uuid.uuid4().hex, Body=b"")
    time.sleep(event.get("s", 0))
    return "done"
"""


@pytest.fixture
def bucket(emulator: Emulator) -> str:
    name = f"b-{uuid.uuid4().hex[:8]}"
    emulator.client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture
def noting(deploy: Callable[..., Any], bucket: str) -> Any:
    """A function that leaves an object for each of its runs."""
    put = {"Effect": "Allow", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    return deploy(NOTE, statements=[put], timeout=2)


def runs(emulator: Emulator, bucket: str) -> int:
    return int(emulator.client("s3").list_objects_v2(Bucket=bucket)["KeyCount"])


def timed(function: Any, event: object) -> tuple[Any, float]:
    began = time.monotonic()
    return function.invoke(event), time.monotonic() - began


def rule(function: Any, kind: str, delay: object = None, **more: object) -> dict[str, Any]:
    fault = {"kind": kind} if delay is None else {"kind": kind, "delay": delay}
    return {"rules": [{"function": function.name, "fault": fault, **more}]}


def test_a_straggler_starts_late_and_within_its_time_limit(emulator: Emulator, noting: Any, bucket: str) -> None:
    emulator.faults(rule(noting, "straggle", 0.7, nth=1))
    answer, seconds = timed(noting, {"bucket": bucket})
    assert (answer.body, seconds >= 0.7) == ("done", True)
    assert timed(noting, {"bucket": bucket})[1] < 0.7
    emulator.faults(rule(noting, "straggle", 30))
    answer, seconds = timed(noting, {"bucket": bucket})
    assert answer.body["errorType"] == "Sandbox.Timedout"
    assert 1.9 < seconds < 6
    assert runs(emulator, bucket) == 2


def test_a_late_result_comes_after_the_work(
    emulator: Emulator, noting: Any, bucket: str, eventually: Eventually
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    emulator.faults(rule(noting, "late", 1.5))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(noting.invoke, {"bucket": bucket})
        eventually(lambda: runs(emulator, bucket) == 1)
        assert not call.done()
        assert call.result().body == "done"


def test_a_silent_death_is_heard_of_at_the_time_limit(emulator: Emulator, noting: Any, bucket: str) -> None:
    emulator.faults(rule(noting, "die", times=1))
    answer, seconds = timed(noting, {"bucket": bucket})
    assert answer.error == "Unhandled"
    assert answer.body["errorType"] == "Runtime.ExitError"
    assert 1.9 < seconds < 6
    assert runs(emulator, bucket) == 0
    assert noting.invoke({"bucket": bucket}).body == "done"


def test_an_exit_is_heard_of_at_once(emulator: Emulator, noting: Any, bucket: str) -> None:
    emulator.faults(rule(noting, "exit"))
    answer, seconds = timed(noting, {"bucket": bucket})
    assert answer.body["errorMessage"].endswith("exit status 1")
    assert seconds < 1.5
    assert runs(emulator, bucket) == 0


@pytest.mark.parametrize("kind", ["exit", "oom"])
def test_a_process_killed_after_its_work_leaves_the_work(
    emulator: Emulator, noting: Any, bucket: str, kind: str
) -> None:
    emulator.faults(rule(noting, kind, 1.5))
    answer = noting.invoke({"bucket": bucket})
    assert answer.body["errorType"] == ("Runtime.ExitError" if kind == "exit" else "Runtime.OutOfMemory")
    assert runs(emulator, bucket) == 1


def test_a_process_killed_in_the_middle_of_its_work(emulator: Emulator, noting: Any, bucket: str) -> None:
    noting.invoke({"bucket": bucket})  # warm
    emulator.faults(rule(noting, "exit", 0.6))
    answer, seconds = timed(noting, {"bucket": bucket, "s": 1.9})
    assert answer.error == "Unhandled"
    assert 0.6 <= seconds < 1.7
    assert runs(emulator, bucket) == 2


def test_throttled_calls_do_not_run(emulator: Emulator, noting: Any, bucket: str, refused: Refused) -> None:
    emulator.faults(rule(noting, "throttle", contains=bucket, times=2))
    for _ in range(2):
        assert refused(lambda: noting.invoke({"bucket": bucket}))[:2] == (429, "TooManyRequestsException")
    assert noting.invoke({"bucket": bucket}).body == "done"
    assert runs(emulator, bucket) == 1
    assert emulator.applied()["faults"] == {"throttle": 2}


def test_an_asynchronous_call_is_delivered_in_spite_of_throttles(
    emulator: Emulator, noting: Any, bucket: str, eventually: Eventually
) -> None:
    emulator.faults(rule(noting, "throttle", times=3))
    noting.invoke({"bucket": bucket}, kind="Event")
    eventually(lambda: runs(emulator, bucket) == 1)


@pytest.mark.parametrize("kind", ["Event", "RequestResponse"])
def test_a_duplicate_runs_twice(
    emulator: Emulator, noting: Any, bucket: str, kind: str, eventually: Eventually
) -> None:
    emulator.faults(rule(noting, "duplicate", nth=1))
    noting.invoke({"bucket": bucket}, kind=kind)
    eventually(lambda: runs(emulator, bucket) == 2)


def test_s3_slows_down_for_a_prefix(emulator: Emulator, bucket: str) -> None:
    s3 = emulator.client("s3")
    emulator.faults({"s3": [{"prefix": "jobs/", "methods": ["PUT"], "times": 2}]})
    s3.put_object(Bucket=bucket, Key="data/x", Body=b"1")
    for _ in range(2):
        with pytest.raises(ClientError) as error:
            s3.put_object(Bucket=bucket, Key="jobs/x", Body=b"1")
        assert error.value.response["Error"]["Code"] == "SlowDown"
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    s3.put_object(Bucket=bucket, Key="jobs/x", Body=b"1")
    assert emulator.applied()["faults"] == {"503": 2}


def test_a_wrong_plan_leaves_the_old_one(emulator: Emulator, noting: Any, bucket: str) -> None:
    emulator.faults(rule(noting, "exit"))
    with pytest.raises(ValueError, match="kind must be one of"):
        emulator.faults({"rules": [{"fault": {"kind": "nap"}}]})
    assert noting.invoke({"bucket": bucket}).error == "Unhandled"


def test_s3_requests_and_bytes_are_counted(emulator: Emulator, bucket: str) -> None:
    def counted(what: str) -> int:
        return int(emulator.counts()["s3"].get("GET kept/", {}).get(what, 0))

    s3 = emulator.client("s3")
    requests, size = counted("200"), counted("bytes")
    s3.put_object(Bucket=bucket, Key="kept/x", Body=b"1" * 1000)
    for _ in range(3):
        s3.get_object(Bucket=bucket, Key="kept/x")["Body"].read()
    assert (counted("200") - requests, counted("bytes") - size) == (3, 3000)
