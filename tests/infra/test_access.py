"""Who may do what: signatures, users, roles of functions, conditions, function URLs."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import botocore.auth
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from infra.emulator.client import Emulator, client

Refused = Callable[[Callable[[], Any]], tuple[int, str, str]]

TRY = """
import boto3
from botocore.exceptions import ClientError
s3, functions = boto3.client("s3"), boto3.client("lambda")
def handler(event, context):
    b, out = event["bucket"], {}
    calls = {
        "get data": lambda: s3.get_object(Bucket=b, Key="data/x"),
        "get other": lambda: s3.get_object(Bucket=b, Key="other/x"),
        "get missing": lambda: s3.get_object(Bucket=b, Key="data/missing"),
        "head missing": lambda: s3.head_object(Bucket=b, Key="data/missing"),
        "put jobs": lambda: s3.put_object(Bucket=b, Key="jobs/x", Body=b"1"),
        "put data": lambda: s3.put_object(Bucket=b, Key="data/y", Body=b"1"),
        "copy": lambda: s3.copy_object(Bucket=b, Key="jobs/y", CopySource={"Bucket": b, "Key": "other/x"}),
        "delete": lambda: s3.delete_object(Bucket=b, Key="data/x"),
        "delete many": lambda: s3.delete_objects(Bucket=b, Delete={"Objects": [{"Key": "data/x"}]}),
        "list": lambda: s3.list_objects_v2(Bucket=b),
        "list jobs": lambda: s3.list_objects_v2(Bucket=b, Prefix="jobs/"),
        "list data": lambda: s3.list_objects_v2(Bucket=b, Prefix="data/"),
        "buckets": lambda: s3.list_buckets(),
        "invoke": lambda: functions.invoke(FunctionName=event["function"]),
        "functions": lambda: functions.list_functions(),
    }
    for name in event.get("only") or calls:
        try:
            given = calls[name]()
            out[name] = given["Errors"][0]["Code"] if given.get("Errors") else "yes"
        except ClientError as error:
            out[name] = error.response["Error"]["Code"]
    return out
"""


@pytest.fixture
def bucket(emulator: Emulator) -> str:
    s3 = emulator.client("s3")
    name = f"b-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(Bucket=name)
    for key in ("data/x", "other/x"):
        s3.put_object(Bucket=name, Key=key, Body=b"1")
    return name


def test_a_role_with_no_policy_may_do_nothing(emulator: Emulator, deploy: Any, bucket: str) -> None:
    function = deploy(TRY)
    tried = function.invoke({"bucket": bucket, "function": function.name}).body
    assert set(tried.values()) <= {"AccessDenied", "AccessDeniedException", "403"}, tried
    s3 = emulator.client("s3")
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["data/x", "other/x"]


def test_a_role_may_do_what_its_policy_allows(deploy: Any, bucket: str) -> None:
    arn = f"arn:aws:s3:::{bucket}"
    other = deploy("def handler(event, context):\n    return 1\n")
    statements = [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{arn}/data/*"},
        {"Effect": "Allow", "Action": "s3:PutObject", "Resource": f"{arn}/jobs/*"},
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": arn,
            "Condition": {"StringLike": {"s3:prefix": ["jobs/*"]}},
        },
        {"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": f"arn:aws:lambda:*:*:function:{other.name}"},
    ]
    function = deploy(TRY, statements=statements)
    tried = function.invoke({"bucket": bucket, "function": other.name}).body
    allowed = {name for name, answer in tried.items() if answer == "yes"}
    assert allowed == {"get data", "put jobs", "list jobs", "invoke"}, tried
    assert tried["get missing"] == "AccessDenied"  # as on S3, where a caller who may not list hears of no gaps
    tried = function.invoke({"bucket": bucket, "function": function.name, "only": ["invoke"]}).body
    assert tried == {"invoke": "AccessDeniedException"}


def test_who_may_list_hears_that_a_key_is_missing(deploy: Any, bucket: str) -> None:
    statements = [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"},
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{bucket}"},
    ]
    function = deploy(TRY, statements=statements)
    tried = function.invoke({"bucket": bucket, "only": ["get missing", "head missing", "list"]}).body
    assert tried == {"get missing": "NoSuchKey", "head missing": "404", "list": "yes"}


def test_strangers_and_forgers_are_refused(emulator: Emulator, deploy: Any, bucket: str, refused: Refused) -> None:
    function = deploy("def handler(event, context):\n    return 1\n")
    stranger = {**emulator.variables, "AWS_ACCESS_KEY_ID": "AKIASTRANGER"}
    forger = {**emulator.variables, "AWS_SECRET_ACCESS_KEY": "guess"}

    def code(variables: dict[str, str], service: str) -> str:
        made = client(service, variables)
        if service == "s3":
            return refused(lambda: made.get_object(Bucket=bucket, Key="data/x"))[1]
        return refused(lambda: made.invoke(FunctionName=function.name))[1]

    assert code(stranger, "lambda") == "UnrecognizedClientException"
    assert code(forger, "lambda") == "InvalidSignatureException"
    assert code(stranger, "s3") == "InvalidAccessKeyId"
    assert code(forger, "s3") == "SignatureDoesNotMatch"
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{emulator.endpoint}/{bucket}/data/x")
    assert error.value.code == 403
    error.value.close()


def test_a_clock_that_is_off_is_told_so(
    emulator: Emulator, bucket: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = botocore.auth.get_current_datetime()
    s3 = emulator.client("s3")
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: now - timedelta(minutes=20))
    assert refused(lambda: s3.get_object(Bucket=bucket, Key="data/x"))[1] == "RequestTimeTooSkewed"
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: now + timedelta(minutes=10))
    s3.get_object(Bucket=bucket, Key="data/x")


@pytest.mark.parametrize("headers", [{"Origin": "http://example.com"}, {"Host": "example.com"}])
def test_a_browser_is_refused(emulator: Emulator, headers: dict[str, str]) -> None:
    request = urllib.request.Request(f"{emulator.endpoint}/_emulator/counts", headers=headers)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == 403
    error.value.close()


def fetch(emulator: Emulator, url: str, method: str = "GET", body: bytes | None = None, *, key: str = "") -> Any:
    """Status, headers and body of a signed request to a function URL."""
    request = AWSRequest(method, url, data=body, headers={"Content-Type": "application/json"})
    variables = emulator.variables
    secret = key or variables["AWS_SECRET_ACCESS_KEY"]
    SigV4Auth(Credentials(variables["AWS_ACCESS_KEY_ID"], secret), "lambda", "us-east-1").add_auth(request)
    made = urllib.request.Request(url, body, dict(request.headers), method=method)
    try:
        with urllib.request.urlopen(made) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_a_function_url_passes_the_request_and_the_answer(emulator: Emulator, deploy: Any) -> None:
    source = (
        "import json\ndef handler(event, context):\n    http = event['requestContext']['http']\n"
        "    seen = [http['method'], event['rawPath'], event['rawQueryString'], event.get('body'),\n"
        "            event['requestContext']['authorizer']['iam']['userArn'], event.get('queryStringParameters')]\n"
        "    return {'statusCode': 202, 'headers': {'x-a': 'b'}, 'body': json.dumps(seen)}\n"
    )
    function = deploy(source)
    given = emulator.client("lambda").create_function_url_config(FunctionName=function.name, AuthType="AWS_IAM")
    name = given["FunctionUrl"].split("//")[1].split(".")[0]
    url = f"{emulator.endpoint}/_url/{name}/jobs/3?limit=5&all="
    status, headers, body = fetch(emulator, url, "POST", b'{"x": 1}')
    user = "arn:aws:iam::123456789012:user/overcast-local"
    assert (status, headers["x-a"]) == (202, "b")
    assert json.loads(body) == ["POST", "/jobs/3", "limit=5&all=", '{"x": 1}', user, {"limit": "5", "all": ""}]
    assert fetch(emulator, url, key="guess")[0] == 403
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(url)
    assert error.value.code == 403
    error.value.close()
    assert fetch(emulator, f"{emulator.endpoint}/_url/{'0' * 32}/")[0] == 404


def test_a_function_url_hides_the_function_s_errors(emulator: Emulator, deploy: Any) -> None:
    function = deploy("def handler(event, context):\n    raise ValueError('secret')\n")
    given = emulator.client("lambda").create_function_url_config(FunctionName=function.name, AuthType="AWS_IAM")
    name = given["FunctionUrl"].split("//")[1].split(".")[0]
    status, _, body = fetch(emulator, f"{emulator.endpoint}/_url/{name}/")
    assert (status, body) == (502, b"Internal Server Error")
