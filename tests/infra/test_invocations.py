"""Invocations on the emulator behave as Lambda's: each by a tiny handler."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from infra.emulator.client import Emulator

Refused = Callable[[Callable[[], Any]], tuple[int, str, str]]
Eventually = Callable[..., None]

ECHO = "def handler(event, context):\n    return event\n"
COUNT = "n = 0\ndef handler(event, context):\n    global n\n    n += 1\n    return n\n"
INVOKE_SELF = {"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": "*"}


def test_a_call_and_its_log(emulator: Emulator, deploy: Any) -> None:
    function = deploy("def handler(event, context):\n    print('seen', event['a'])\n    return {'got': event}\n")
    answer = function.invoke({"a": 3})
    assert (answer.body, answer.error) == ({"got": {"a": 3}}, None)
    lines = answer.log.splitlines()
    assert lines[0].startswith("START RequestId: ")
    assert lines[1] == "seen 3"
    assert "Init Duration" in lines[3]
    assert "Memory Size: 256 MB" in lines[3]
    logs = emulator.client("logs")
    events = logs.filter_log_events(logGroupName=f"/aws/lambda/{function.name}")["events"]
    assert [event["message"] for event in events] == lines
    assert "Init Duration" not in function.invoke({"a": 3}).log


def test_warm_calls_keep_the_process(deploy: Any) -> None:
    function = deploy(COUNT)
    assert [function.invoke().body for _ in range(5)] == [1, 2, 3, 4, 5]


def test_calls_at_once_have_processes_of_their_own(deploy: Any) -> None:
    function = deploy("import os, time\ndef handler(event, context):\n    time.sleep(0.3)\n    return os.getpid()\n")
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: function.invoke().body, range(4)))) == 4


def test_the_context_and_the_environment(deploy: Any) -> None:
    function = deploy(
        "import os\ndef handler(event, context):\n"
        "    left = context.get_remaining_time_in_millis()\n"
        "    return [context.function_name, context.memory_limit_in_mb, left, dict(os.environ)]\n"
    )
    name, memory, left, variables = function.invoke().body
    assert (name, int(memory)) == (function.name, 256)
    assert 8000 < left <= 10000
    assert variables["AWS_LAMBDA_FUNCTION_NAME"] == function.name
    assert variables["AWS_ACCESS_KEY_ID"].startswith("ASIA")
    assert "PATH" in variables
    assert not {"VIRTUAL_ENV", "PYTEST_CURRENT_TEST"} & set(variables)


def test_only_the_package_and_what_the_runtime_ships_can_be_imported(deploy: Any) -> None:
    function = deploy(
        "def handler(event, context):\n    import boto3\n    try:\n        import numpy\n"
        "    except ImportError as error:\n        return str(error)\n"
    )
    assert function.invoke().body == "No module named 'numpy'"


def test_an_exception(deploy: Any) -> None:
    answer = deploy("def handler(event, context):\n    raise ValueError('no good')\n").invoke()
    assert answer.error == "Unhandled"
    assert answer.body["errorType"] == "ValueError"
    assert answer.body["errorMessage"] == "no good"
    assert answer.body["stackTrace"]


def test_a_module_that_cannot_be_imported(deploy: Any) -> None:
    function = deploy("import nothing_of_this_name\n")
    answer = function.invoke()
    assert answer.error == "Unhandled"
    assert answer.body["errorType"] == "Runtime.ImportModuleError"
    assert function.invoke().body["errorType"] == "Runtime.ImportModuleError"


def test_a_process_that_exits(deploy: Any) -> None:
    function = deploy("import os\ndef handler(event, context):\n    os._exit(event['code'])\n")
    answer = function.invoke({"code": 3})
    assert answer.error == "Unhandled"
    assert answer.body["errorType"] == "Runtime.ExitError"
    assert answer.body["errorMessage"].endswith("Error: Runtime exited with error: exit status 3")
    assert "without providing a reason" in function.invoke({"code": 0}).body["errorMessage"]


def test_a_call_out_of_time_is_killed(deploy: Any) -> None:
    function = deploy(
        "import time\ndef handler(event, context):\n    time.sleep(event.get('s', 0))\n    return 1\n", timeout=1
    )
    began = time.monotonic()
    answer = function.invoke({"s": 30})
    assert 0.9 < time.monotonic() - began < 5
    assert answer.body["errorType"] == "Sandbox.Timedout"
    assert answer.body["errorMessage"].endswith("Task timed out after 1.00 seconds")
    assert "Status: timeout" in answer.log
    assert function.invoke().body == 1


def test_a_call_out_of_memory_is_killed(deploy: Any) -> None:
    source = "import time\ndef handler(event, context):\n    x = b'1' * (event['mb'] << 20)\n    time.sleep(1)\n"
    function = deploy(source, memory=128)
    answer = function.invoke({"mb": 200})
    assert answer.error == "Unhandled"
    assert answer.body["errorType"] == "Runtime.OutOfMemory"
    assert function.invoke({"mb": 20}).error is None


def test_payload_limits(emulator: Emulator, deploy: Any, refused: Refused) -> None:
    function = deploy(
        "def handler(event, context):\n    return 'x' * event['n'] if 'n' in event else len(event['x'])\n"
    )
    assert function.invoke({"n": 6 * 1024 * 1024 - 100}).error is None
    answer = function.invoke({"n": 6 * 1024 * 1024 + 200})
    assert answer.body["errorType"] == "Function.ResponseSizeTooLarge"
    assert function.invoke({"x": "y" * (6 * 1024 * 1024 - 20)}).body == 6 * 1024 * 1024 - 20
    status, code, _ = refused(lambda: function.invoke({"x": "y" * (6 * 1024 * 1024)}))
    assert (status, code) == (413, "RequestTooLargeException")
    status, code, _ = refused(lambda: function.invoke({"x": "y" * (1024 * 1024)}, kind="Event"))
    assert (status, code) == (413, "RequestTooLargeException")
    client = emulator.client("lambda")
    status, code, _ = refused(lambda: client.invoke(FunctionName=function.name, Payload=b"{not json"))
    assert (status, code) == (400, "InvalidRequestContentException")


def test_an_unknown_function(emulator: Emulator, refused: Refused) -> None:
    status, code, message = refused(lambda: emulator.client("lambda").invoke(FunctionName="nothing"))
    assert (status, code) == (404, "ResourceNotFoundException")
    assert message.endswith("function:nothing")


def test_dry_run_runs_nothing(emulator: Emulator, deploy: Any) -> None:
    function = deploy(COUNT)
    given = emulator.client("lambda").invoke(FunctionName=function.name, InvocationType="DryRun")
    assert given["StatusCode"] == 204
    assert function.invoke().body == 1


def test_reserved_concurrency_refuses_with_429(
    emulator: Emulator, deploy: Any, refused: Refused, eventually: Eventually
) -> None:
    function = deploy("import time\ndef handler(event, context):\n    time.sleep(event.get('s', 0))\n")
    emulator.client("lambda").put_function_concurrency(FunctionName=function.name, ReservedConcurrentExecutions=1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(function.invoke, {"s": 1.5})
        eventually(lambda: emulator.counts()["functions"].get(function.name, {}).get("peak") == 1)
        status, code, _ = refused(function.invoke)
        assert running.result().error is None
    assert (status, code) == (429, "TooManyRequestsException")
    assert function.invoke().error is None


def test_asynchronous_failures_are_retried_as_configured(
    emulator: Emulator, deploy: Any, eventually: Eventually
) -> None:
    client = emulator.client("lambda")
    source = "def handler(event, context):\n    raise ValueError\n"
    twice, never = deploy(source), deploy(source)
    client.put_function_event_invoke_config(FunctionName=never.name, MaximumRetryAttempts=0)
    twice.invoke(kind="Event")
    never.invoke(kind="Event")

    def calls(name: str) -> int:
        return int(emulator.counts()["functions"].get(name, {}).get("invocations", 0))

    eventually(lambda: calls(twice.name) == 3)
    assert calls(never.name) == 1


TELL = """import json, os, pathlib, time
def handler(event, context):
    pathlib.Path({path!r}).joinpath(context.aws_request_id).write_text(json.dumps(event))
"""


def test_a_destination_is_told_of_failures(
    emulator: Emulator, deploy: Any, eventually: Eventually, tmp_path: Path
) -> None:
    client = emulator.client("lambda")
    told = deploy(TELL.format(path=str(tmp_path)))
    source = "import os\ndef handler(event, context):\n    if event['code'] >= 0:\n        os._exit(event['code'])\n"
    failing, forbidden = deploy(source, statements=[INVOKE_SELF]), deploy(source)
    arn = client.get_function(FunctionName=told.name)["Configuration"]["FunctionArn"]
    for function in (failing, forbidden):
        client.put_function_event_invoke_config(
            FunctionName=function.name,
            MaximumRetryAttempts=1,
            MaximumEventAgeInSeconds=60,
            DestinationConfig={"OnFailure": {"Destination": arn}},
        )

    def calls(name: str, what: str = "invocations") -> int:
        return int(emulator.counts()["functions"].get(name, {}).get(what, 0))

    failing.invoke({"code": -1}, kind="Event")  # does not fail
    failing.invoke({"code": 3}, kind="Event")
    eventually(lambda: calls(told.name) == 1)
    assert calls(failing.name) == 3
    (record,) = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    about = record["requestContext"]
    assert (about["condition"], about["approximateInvokeCount"]) == ("RetriesExhausted", 2)
    assert failing.name in about["functionArn"]
    assert record["requestPayload"] == {"code": 3}
    assert record["responseContext"]["functionError"] == "Unhandled"
    assert record["responsePayload"]["errorType"] == "Runtime.ExitError"
    assert about["requestId"] in record["responsePayload"]["errorMessage"]
    # the role of the function must be allowed to tell it
    forbidden.invoke({"code": 3}, kind="Event")
    eventually(lambda: calls(forbidden.name, "undelivered") == 1)
    assert calls(told.name) == 1
    # synchronous calls are told their callers only
    assert failing.invoke({"code": 3}).error
    time.sleep(0.3)
    assert calls(told.name) == 1


def test_a_destination_is_told_of_what_waited_too_long(
    emulator: Emulator, deploy: Any, eventually: Eventually, tmp_path: Path
) -> None:
    told = deploy(TELL.format(path=str(tmp_path)))
    busy = deploy(ECHO, statements=[INVOKE_SELF])
    arn = emulator.client("lambda").get_function(FunctionName=told.name)["Configuration"]["FunctionArn"]
    config = {
        "FunctionName": busy.name,
        "Qualifier": "$LATEST",
        "MaximumEventAgeInSeconds": 1,  # AWS takes 60 and more
        "DestinationConfig": {"OnFailure": {"Destination": arn}},
    }
    resource = {"Type": "AWS::Lambda::EventInvokeConfig", "Properties": config}
    formation = emulator.client("cloudformation")
    formation.create_stack(StackName=busy.name, TemplateBody=json.dumps({"Resources": {"Config": resource}}))
    emulator.faults({"rules": [{"function": busy.name, "fault": {"kind": "throttle"}}]})
    busy.invoke({"a": 1}, kind="Event")
    eventually(lambda: any(tmp_path.iterdir()))
    (record,) = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    about = record["requestContext"]
    assert (about["condition"], about["approximateInvokeCount"]) == ("EventAgeExceeded", 0)
    assert record["requestPayload"] == {"a": 1}
    assert "responsePayload" not in record
    formation.delete_stack(StackName=busy.name)


def test_a_loop_is_stopped_after_16_hops_unless_allowed(
    emulator: Emulator, deploy: Any, eventually: Eventually
) -> None:
    source = (
        "import boto3, json\nclient = boto3.client('lambda')\ndef handler(event, context):\n"
        "    if event['left']:\n        payload = json.dumps({'left': event['left'] - 1})\n"
        "        client.invoke(FunctionName=context.function_name, InvocationType='Event', Payload=payload)\n"
    )
    client = emulator.client("lambda")
    bounded, endless = (deploy(source, statements=[INVOKE_SELF]) for _ in range(2))
    client.put_function_recursion_config(FunctionName=endless.name, RecursiveLoop="Allow")
    assert client.get_function_recursion_config(FunctionName=endless.name)["RecursiveLoop"] == "Allow"
    assert client.get_function_recursion_config(FunctionName=bounded.name)["RecursiveLoop"] == "Terminate"
    bounded.invoke({"left": 25}, kind="Event")

    def calls(name: str) -> int:
        return int(emulator.counts()["functions"].get(name, {}).get("invocations", 0))

    eventually(lambda: calls(bounded.name) == 16, 30)
    endless.invoke({"left": 25}, kind="Event")
    eventually(lambda: calls(endless.name) == 26, 30)
    assert calls(bounded.name) == 16


def test_new_code_and_configuration_take_effect(
    emulator: Emulator, deploy: Any, package: Callable[[str], bytes], eventually: Eventually
) -> None:
    function = deploy("import os\ndef handler(event, context):\n    return os.getpid()\n")
    client = emulator.client("lambda")
    old = function.invoke().body
    assert old in emulator.processes()
    client.update_function_code(FunctionName=function.name, ZipFile=package("def handler(e, c):\n    return 'new'\n"))
    assert function.invoke().body == "new"
    client.update_function_configuration(FunctionName=function.name, Environment={"Variables": {"A": "b"}})
    client.update_function_code(
        FunctionName=function.name, ZipFile=package("import os\ndef handler(e, c):\n    return os.environ['A']\n")
    )
    assert function.invoke().body == "b"
    eventually(lambda: old not in emulator.processes())  # an environment of older code goes


def test_environments_have_folders_of_their_own_and_leave_none(deploy: Any, eventually: Eventually) -> None:
    source = "import os, tempfile\ndef handler(event, context):\n    return [tempfile.mkdtemp(), os.getpid()]\n"
    function = deploy(source, timeout=1)
    folder, process = function.invoke().body
    assert os.path.isdir(folder)  # noqa: PTH112
    os.kill(process, 9)
    eventually(lambda: not os.path.exists(folder))  # noqa: PTH110
    assert function.invoke().body[1] != process


def test_many_threads_get_each_their_own_answer(deploy: Any) -> None:
    function = deploy(ECHO)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda i: function.invoke(i).body, range(1, 200))) == list(range(1, 200))


def test_printing_much_does_not_block(deploy: Any) -> None:
    source = "def handler(event, context):\n    print(('y' * 99 + '\\n') * 5000)\n    return 1\n"
    answer = deploy(source).invoke()
    assert answer.body == 1
    assert len(answer.log) == 4096
