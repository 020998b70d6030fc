"""The emulator as a process: when it stops, what it leaves, and how it refuses to start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.emulator.__main__ import main
from infra.emulator.client import Emulator, EmulatorProcess
from infra.emulator.environment import Environment
from infra.emulator.functions import Function, host_runtime

Eventually = Callable[..., None]
ROOT = Path(__file__).resolve().parents[2]
HOLD = "import tempfile, time\ndef handler(event, context):\n    return tempfile.mkdtemp()\n"


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def warm(emulator: Emulator, package: Callable[[str], bytes]) -> tuple[list[int], Path]:
    """Processes of one warm environment, and a folder it made."""
    role = emulator.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    functions = emulator.client("lambda")
    functions.create_function(
        FunctionName="f", Runtime=host_runtime(), Role=role, Handler="handler.handler", Code={"ZipFile": package(HOLD)}
    )
    folder = Path(json.loads(functions.invoke(FunctionName="f")["Payload"].read()))
    return emulator.processes(), folder


def test_a_signal_stops_it_and_all_that_it_started(package: Callable[[str], bytes], eventually: Eventually) -> None:
    with EmulatorProcess() as running:
        (process,), folder = warm(running, package)
        assert (alive(process), folder.is_dir()) == (True, True)
        os.kill(running.pid, signal.SIGINT)  # the fixtures use SIGTERM
        eventually(lambda: not alive(running.pid))
    eventually(lambda: not alive(process))
    assert not folder.parent.parent.parent.exists()


def test_killed_outright_it_takes_its_children_along(package: Callable[[str], bytes], eventually: Eventually) -> None:
    import shutil

    with EmulatorProcess() as running:
        (process,), folder = warm(running, package)
        os.kill(running.pid, signal.SIGKILL)
        eventually(lambda: not alive(process))
    work = folder.parent.parent.parent
    assert work.name.startswith("overcast-emulator-")
    shutil.rmtree(work)


def test_it_goes_with_its_parent(tmp_path: Path, eventually: Eventually) -> None:
    ready = tmp_path / "ready.json"
    script = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-m', 'infra.emulator', '--ready-file', sys.argv[1]])\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(ready)], cwd=ROOT, stdout=subprocess.DEVNULL)
    eventually(ready.exists, 60)
    process = json.loads(ready.read_text())["pid"]
    assert alive(process)
    parent.kill()
    parent.wait()
    eventually(lambda: not alive(process))


def test_an_environment_that_is_gone_reads_nothing_of_others(tmp_path: Path, eventually: Eventually) -> None:
    """Its pipe's number goes to the next file that is opened, such as another environment's connection."""

    class Nobody:
        def idle(self, environment: Environment) -> None: ...

        def gone(self, environment: Environment) -> None: ...

    reader, writer = os.pipe()
    (tmp_path / "runtime").mkdir()
    function = Function("f", "a", "1", "pass", host_runtime(), "r", "us-east-1", 128, 1.0, (), (str(tmp_path),))
    environment = Environment(function, [sys.executable, "-c"], {"PYTHONPATH": ""}, tmp_path / "runtime", Nobody())
    number, pipe = environment.output, environment._process.stdout
    eventually(lambda: pipe.closed)
    os.dup2(reader, number)
    os.set_blocking(number, False)
    os.write(writer, b"another's\n")
    environment.drain()
    assert os.read(number, 100) == b"another's\n"
    assert environment.printed() == []
    for one in (reader, writer, number):
        os.close(one)


def test_a_wrong_fault_plan_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('{"rules": [{"fault": {"kind": "nap"}}]}')
    assert main(["--faults", str(plan)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("emulator: rules[0].fault: kind must be one of")
    assert said.count("\n") == 1


def test_a_port_that_is_taken_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert said == f"emulator: cannot listen on 127.0.0.1:{port}: Address already in use; give another --port\n"


def test_another_runtime_is_refused_in_one_line(
    emulator: Emulator, deploy: Any, refused: Callable[[Callable[[], Any]], tuple[int, str, str]]
) -> None:
    function = deploy("def handler(event, context):\n    return 1\n")
    emulator.client("lambda").update_function_configuration(FunctionName=function.name, Runtime="python3.9")
    status, code, message = refused(function.invoke)
    assert (status, code) == (502, "InvalidRuntimeException")
    assert message.endswith(f"wants python3.9; this emulator runs on {host_runtime()} and only that")


def test_environments_are_no_more_than_the_concurrency(package: Callable[[str], bytes]) -> None:
    with EmulatorProcess(["--concurrency", "2"]) as running:
        role = running.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        functions = running.client("lambda")
        for name in ("a", "b", "c", "d"):
            functions.create_function(
                FunctionName=name,
                Runtime=host_runtime(),
                Role=role,
                Handler="handler.handler",
                Code={"ZipFile": package("def handler(event, context):\n    return 1\n")},
            )
            functions.invoke(FunctionName=name)
        assert len(running.processes()) <= 3  # the one that gives way may still be on its way out
