"""One command brings the emulator up and deploys by osls, as to AWS; another takes it down."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from infra import local, osls
from infra.emulator.client import Emulator, client

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "infra.local", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def up(checkout: Any) -> Iterator[Mapping[str, str]]:
    """Variables of a local deployment that is up."""
    if osls.find_node() is None:
        pytest.skip('Node.js 20 or newer is needed to deploy: pip install -e ".[deploy]"')
    if local.load() is not None:
        pytest.skip("a local deployment runs already in this checkout: python -m infra.local down")
    with checkout():
        run("up", "--detach", "--port", "0", "--memory", "256,512,1024", "--driver-timeout", "30")
    yield json.loads(local.STATE.read_text())["variables"]
    run("down")


@pytest.mark.e2e
def test_up_deploys_by_osls_and_down_leaves_nothing(up: Mapping[str, str], checkout: Any) -> None:
    assert up["AWS_ENDPOINT_URL"] in run("status")
    exported = run("env")
    assert f"export OVERCAST_BUCKET={up['OVERCAST_BUCKET']}\n" in exported
    seen = subprocess.run(["/bin/sh", "-c", f"{exported}\nenv"], capture_output=True, text=True, check=True).stdout
    assert f"OVERCAST_API={up['OVERCAST_API']}\n" in seen
    functions = client("lambda", up)
    sizes = [
        functions.get_function(FunctionName=name)["Configuration"]["MemorySize"]
        for name in up["OVERCAST_WORKERS"].split(",")
    ]
    assert sizes == [256, 512, 1024]
    driver = functions.get_function(FunctionName=up["OVERCAST_DRIVER"])["Configuration"]
    assert driver["Timeout"] == 30
    answer = functions.invoke(FunctionName=up["OVERCAST_WORKERS"].split(",")[0], Payload=b"{}")
    assert "FunctionError" not in answer, answer["Payload"].read()
    run("up", "--detach", code=1)  # one at a time
    with checkout():
        said = osls.run(["info", "--stage", "local", *local.Options().params()], up)
    assert up["OVERCAST_API"] in said
    state = json.loads(local.STATE.read_text())
    running = Emulator(state["endpoint"], state["pid"], up)
    assert running.process() == state["pid"]
    run("down")
    assert running.process() is None
    assert not local.STATE.exists()
    run("status", code=1)
