"""python -m infra.local up | status | env | down: Overcast deployed on this machine, on emulated AWS.

`up` starts the emulator, builds the package, deploys serverless.yml with osls, and says what a client needs; with
--detach it leaves all that running. `env` prints the same as shell commands: eval "$(python -m infra.local env)".
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from infra import stack
from infra.build import BuildError
from infra.emulator.client import Emulator, wait_ready
from infra.osls import ROOT, DeployError
from infra.stack import Options

HOME: Final = ROOT / ".overcast-local"
STATE: Final = HOME / "state.json"


def main(arguments: list[str] | None = None) -> int:
    """Do what is asked; the exit code is 1 where it fails, or where `status` finds nothing running."""
    given = _parser().parse_args(arguments)
    try:
        code: int = given.run(given)
    except (BuildError, DeployError, RuntimeError) as error:
        print(f"local: {error}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.local", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    up = commands.add_parser("up", help="start the emulator and deploy; Ctrl-C ends both")
    up.add_argument("--detach", action="store_true", help="leave it running (ends with: down)")
    up.add_argument("--fast", action="store_true", help="make the stack at once instead of by `osls deploy`")
    up.add_argument("--port", type=int, default=4566, help="of the emulator on 127.0.0.1 (default 4566; 0: any)")
    up.add_argument("--memory", type=_sizes, default=(512, 1024, 2048), help="MB of workers (default 512,1024,2048)")
    up.add_argument("--worker-timeout", type=int, default=120, help="seconds (default 120)")
    up.add_argument("--driver-timeout", type=int, default=120, help="seconds (default 120)")
    up.add_argument("--lease", type=int, default=60, help="seconds until a silent driver counts as dead (default 60)")
    up.add_argument("--concurrency", type=int, default=64, help="concurrent executions (default 64)")
    up.add_argument("--allow-code", action="store_true", help="let jobs run Python functions that were uploaded")
    up.add_argument("--faults", type=Path, help="a fault plan (JSON; docs/emulator.md)")
    up.set_defaults(run=_up)
    for name, run, text in (
        ("status", _status, "say whether it runs, and where"),
        ("env", _env, "print the environment variables that a client needs"),
        ("down", _down, "stop a detached emulator; all that it holds is gone"),
    ):
        commands.add_parser(name, help=text).set_defaults(run=run)
    return parser


def _sizes(text: str) -> tuple[int, int, int]:
    sizes = [int(part) for part in text.split(",")]
    if len(sizes) != 3 or sizes != sorted(sizes) or sizes[0] < 128 or sizes[2] > 10240:
        raise argparse.ArgumentTypeError("three sizes in MB, growing, from 128 to 10240")
    return sizes[0], sizes[1], sizes[2]


def _up(given: argparse.Namespace) -> int:
    if (running := load()) is not None:
        print(f"local: {running['endpoint']} runs already (process {running['pid']}); stop it with: down")
        return 1
    HOME.mkdir(exist_ok=True)
    began = time.monotonic()
    print("local: building the package ...", flush=True)
    stack.build_local()
    process, emulator = _start(given)
    try:
        print(f"local: emulator at {emulator.endpoint}; deploying ...", flush=True)
        options = Options(
            memory=given.memory,
            worker_timeout=given.worker_timeout,
            driver_timeout=given.driver_timeout,
            lease=given.lease,
            allow_code=given.allow_code,
        )
        deployed = (stack.create if given.fast else stack.deploy)(emulator.variables, options)
        variables = {**emulator.variables, **deployed.variables()}
        state = {"endpoint": emulator.endpoint, "pid": emulator.pid, "variables": variables, "stack": asdict(deployed)}
        STATE.write_text(json.dumps(state, indent=1) + "\n")
        print(f"local: ready after {time.monotonic() - began:.0f} s\n{_described(state)}", flush=True)
        if given.detach:
            return 0
        _wait(process)
    except BaseException:
        _stop(process)
        raise
    _stop(process)
    STATE.unlink(missing_ok=True)
    return 0


def _start(given: argparse.Namespace) -> tuple[subprocess.Popen[bytes], Emulator]:
    ready = HOME / "ready.json"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "infra.emulator", "--port", str(given.port), "--ready-file", str(ready)]
    command += ["--concurrency", str(given.concurrency)]
    command += ["--no-parent"] if given.detach else []
    command += ["--faults", str(given.faults)] if given.faults else []
    with (HOME / "emulator.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=given.detach
        )
    try:
        found = wait_ready(ready, process)
    except RuntimeError as error:
        said = (HOME / "emulator.log").read_text().strip().splitlines()
        raise RuntimeError(said[-1] if said else str(error)) from None
    return process, Emulator(found["endpoint"], found["pid"], found["variables"])


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Until the emulator ends, or somebody ends us."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: process.terminate())
    print("local: Ctrl-C stops it", flush=True)
    process.wait()


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        process.wait(20)


def _status(_: argparse.Namespace) -> int:
    if (running := load()) is None:
        print("local: nothing runs; start it with: python -m infra.local up")
        return 1
    print(_described(running))
    return 0


def _env(_: argparse.Namespace) -> int:
    if (running := load()) is None:
        print("local: nothing runs; start it with: python -m infra.local up", file=sys.stderr)
        return 1
    print(_exports(running["variables"]))
    return 0


def _down(_: argparse.Namespace) -> int:
    if (running := load()) is None:
        print("local: nothing runs")
        return 0
    os.kill(running["pid"], signal.SIGTERM)
    emulator = Emulator(running["endpoint"], running["pid"], running["variables"])
    until = time.monotonic() + 20
    while emulator.process() is not None and time.monotonic() < until:
        time.sleep(0.05)
    STATE.unlink(missing_ok=True)
    print(f"local: stopped {running['endpoint']}")
    return 0


def load() -> dict[str, Any] | None:
    """What `up` wrote, where that emulator still answers; None otherwise."""
    if not STATE.exists():
        return None
    state: dict[str, Any] = json.loads(STATE.read_text())
    if Emulator(state["endpoint"], state["pid"], state["variables"]).process() == state["pid"]:
        return state
    STATE.unlink(missing_ok=True)
    return None


def _described(state: Mapping[str, Any]) -> str:
    found = state["stack"]
    return f"  api      {found['api']}\n  bucket   {found['bucket']}\n\n{_exports(state['variables'])}"


def _exports(variables: Mapping[str, str]) -> str:
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


if __name__ == "__main__":
    sys.exit(main())
