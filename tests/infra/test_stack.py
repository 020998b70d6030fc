"""The deployed stack: its template is clean, its roles may do what they should and nothing else."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from infra import stack
from infra.emulator.client import client

TRY = """
import boto3
from botocore.exceptions import ClientError
s3, functions = boto3.client("s3"), boto3.client("lambda")
def handler(event, context):
    b, out = event["bucket"], {}
    calls = {
        "list all": lambda: s3.list_objects_v2(Bucket=b, Prefix="other/"),
        "delete bucket": lambda: s3.delete_bucket(Bucket=b),
        "get policy": lambda: s3.get_bucket_policy(Bucket=b),
        "list functions": lambda: functions.list_functions(),
    }
    for folder in ("data", "jobs", "other"):
        key = folder + "/NAME/x"
        calls["get " + folder] = lambda key=key: s3.get_object(Bucket=b, Key=key)
        calls["put " + folder] = lambda key=key: s3.put_object(Bucket=b, Key=key + "2", Body=b"1")
        calls["delete " + folder] = lambda key=key: s3.delete_object(Bucket=b, Key=key + "3")
        calls["list " + folder] = lambda folder=folder: s3.list_objects_v2(Bucket=b, Prefix=folder + "/")
    for name in event["functions"]:
        calls["invoke " + name] = lambda name=name: functions.invoke(FunctionName=name, InvocationType="DryRun")
    for name, call in calls.items():
        try:
            call()
            out[name] = "yes"
        except ClientError as error:
            out[name] = error.response["Error"]["Code"]
    return out
"""

READ = {"get data", "get jobs"}
LIST = {"list data", "list jobs"}
WORKERS = {"invoke worker", "invoke worker-large", "invoke worker-xlarge"}
MAY = {
    "worker": READ | {"put jobs"},
    "worker-large": READ | {"put jobs"},
    "driver": READ | LIST | WORKERS | {"put jobs", "delete jobs", "invoke driver", "invoke api"},
    "api": READ | LIST | {"put jobs", "delete jobs", "invoke driver"},
}


@pytest.fixture
def prepared(deployment: Any) -> Any:
    """The deployment, with objects to reach for and a function that nobody may invoke."""
    s3 = deployment.emulator.client("s3")
    for folder in ("data", "jobs", "other"):
        s3.put_object(Bucket=deployment.stack.bucket, Key=f"{folder}/NAME/x", Body=b"1")
    return deployment


@pytest.fixture(scope="module")
def production(deployment: Any, checkout: Any) -> dict[str, Any]:
    """The template of a real stage."""
    assert deployment.stack.stage == "local"
    with checkout():
        return stack.template(stack.Options(stage="prod"), real=True)


def attempts(deployment: Any, role: str, deploy: Callable[..., Any]) -> dict[str, str]:
    """What a function with this role gets when it tries everything."""
    functions = deployment.emulator.client("lambda")
    stranger = deploy("def handler(event, context):\n    return 1\n")
    probe = deploy(TRY, timeout=30)
    functions.update_function_configuration(FunctionName=probe.name, Role=role)
    every = [*deployment.stack.workers, deployment.stack.driver, "overcast-local-api", stranger.name]
    answer = probe.invoke({"bucket": deployment.stack.bucket, "functions": every})
    assert answer.error is None, answer.body
    names = {f"invoke {stranger.name}": "invoke stranger"}
    return {names.get(name, name.replace("overcast-local-", "")): value for name, value in answer.body.items()}


@pytest.mark.parametrize("function", list(MAY))
def test_a_role_may_do_this_and_nothing_else(prepared: Any, deploy: Any, function: str) -> None:
    found = prepared.emulator.client("lambda").get_function(FunctionName=f"overcast-local-{function}")
    tried = attempts(prepared, found["Configuration"]["Role"], deploy)
    assert {name for name, answer in tried.items() if answer == "yes"} == MAY[function]
    refusals = {answer for answer in tried.values() if answer != "yes"}
    assert refusals <= {"AccessDenied", "AccessDeniedException", "403"}, tried


def test_the_client_policy_lets_people_import_and_call_the_api(prepared: Any, refused: Any) -> None:
    iam = prepared.emulator.client("iam")
    name = f"user-{uuid.uuid4().hex[:6]}"
    iam.create_user(UserName=name)
    (policy,) = iam.list_policies(Scope="Local")["Policies"]
    iam.attach_user_policy(UserName=name, PolicyArn=policy["Arn"])
    key = iam.create_access_key(UserName=name)["AccessKey"]
    mine = {
        **prepared.emulator.variables,
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }
    s3, functions, bucket = client("s3", mine), client("lambda", mine), prepared.stack.bucket
    s3.put_object(Bucket=bucket, Key="data/mine/x", Body=b"1")
    s3.get_object(Bucket=bucket, Key="jobs/NAME/x")
    s3.list_objects_v2(Bucket=bucket, Prefix="data/")
    for call in (
        lambda: s3.delete_object(Bucket=bucket, Key="data/mine/x"),
        lambda: s3.put_object(Bucket=bucket, Key="jobs/NAME/y", Body=b"1"),
        lambda: s3.list_objects_v2(Bucket=bucket, Prefix="other/"),
        lambda: functions.invoke(FunctionName=prepared.stack.driver),
        lambda: functions.invoke(FunctionName="overcast-local-api"),
    ):
        assert refused(call)[0] == 403


def test_the_functions_are_as_the_contract_has_them(deployment: Any) -> None:
    functions = deployment.emulator.client("lambda")
    stacked = deployment.stack
    for name, memory in zip(stacked.workers, (512, 1024, 2048), strict=True):
        found = functions.get_function(FunctionName=name)["Configuration"]
        assert (found["Handler"], found["MemorySize"]) == ("lambda/worker.handler", memory)
        variables = found["Environment"]["Variables"]
        assert variables["OVERCAST_BUCKET"] == stacked.bucket
        assert variables["OVERCAST_WORKERS"].split(",") == list(stacked.workers)
        assert variables["OVERCAST_DRIVER"] == stacked.driver
        assert (variables["OVERCAST_STAGE"], variables["OVERCAST_ALLOW_CODE"]) == ("local", "0")
        assert variables["OPENBLAS_NUM_THREADS"] == "1"
        assert variables["OVERCAST_WORKER_MB"] == "512,1024,2048"
        assert (variables["OVERCAST_TASK_SECONDS"], variables["OVERCAST_LEASE"]) == ("125", "5")
        assert variables["OVERCAST_VERSION"]
        assert functions.get_function_event_invoke_config(FunctionName=name)["MaximumRetryAttempts"] == 0
    failed = functions.get_function_event_invoke_config(FunctionName=stacked.driver)
    assert (failed["MaximumRetryAttempts"], failed["MaximumEventAgeInSeconds"]) == (0, 3600)
    assert failed["DestinationConfig"]["OnFailure"]["Destination"].endswith(":function:overcast-local-api")
    assert functions.get_function_recursion_config(FunctionName=stacked.driver)["RecursiveLoop"] == "Allow"
    assert functions.get_function_recursion_config(FunctionName=stacked.workers[0])["RecursiveLoop"] == "Terminate"
    assert stacked.api.startswith(f"{deployment.emulator.endpoint}/_url/")


def test_the_template_is_clean_by_cfn_lint(production: dict[str, Any]) -> None:
    from cfnlint.api import lint

    assert [str(match) for match in lint(json.dumps(production))] == []
    wrong = {"Resources": {"Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"Bogus": 1}}}}
    assert [match.rule.id for match in lint(json.dumps(wrong))] == ["E3002"]


def test_a_real_stage_is_private_sized_and_bounded(production: dict[str, Any]) -> None:
    resources = production["Resources"]
    functions = {k: v["Properties"] for k, v in resources.items() if v["Type"] == "AWS::Lambda::Function"}
    sizes = {"Worker": 1769, "WorkerDashlarge": 3538, "WorkerDashxlarge": 7076}
    for name, size in sizes.items():
        assert functions[f"{name}LambdaFunction"]["MemorySize"] == size <= 10240
    for function in functions.values():
        assert (function["Runtime"], function["Architectures"]) == ("python3.13", ["arm64"])
        assert function["Timeout"] <= 900
        assert function.get("EphemeralStorage", {"Size": 512})["Size"] <= 10240
    groups = [v["Properties"] for v in resources.values() if v["Type"] == "AWS::Logs::LogGroup"]
    assert len(groups) == len(functions)
    assert {group["RetentionInDays"] for group in groups} == {14}
    bucket = resources["Bucket"]["Properties"]
    assert all(bucket["PublicAccessBlockConfiguration"].values())
    assert bucket["BucketEncryption"]
    (statement,) = resources["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert resources["ApiLambdaFunctionUrl"]["Properties"]["AuthType"] == "AWS_IAM"
    metrics = {v["Properties"]["MetricName"] for v in resources.values() if v["Type"] == "AWS::CloudWatch::Alarm"}
    assert metrics == {"Errors", "Throttles", "Duration", "DestinationDeliveryFailures"}
