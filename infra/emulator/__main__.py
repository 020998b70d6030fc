"""python -m infra.emulator [--port N] [--parent PID] [--ready-file F] [--faults F] ...: run until told to stop."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path

from infra.emulator.faults import PlanError, parse_plan
from infra.emulator.plane import PlaneSettings
from infra.emulator.server import Server, client_variables


def main(arguments: list[str] | None = None) -> int:
    """Run the emulator; the exit code is 2 where it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m infra.emulator", description="AWS on 127.0.0.1, without Docker.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--parent", type=int, help="stop when this process is gone (default: the one that started it)")
    parser.add_argument("--no-parent", action="store_true", help="run on when the parent goes")
    parser.add_argument("--ready-file", type=Path, help="write endpoint and process id there, as JSON, when ready")
    parser.add_argument("--faults", type=Path, help="fault plan to begin with (JSON)")
    parser.add_argument("--concurrency", type=int, default=64, help="concurrent executions of the account (default 64)")
    parser.add_argument("--idle", type=float, default=300.0, help="seconds that unused environments live (default 300)")
    parser.add_argument("--retry", type=float, default=0.2, help="seconds before an asynchronous retry (default 0.2)")
    parser.add_argument("--no-memory", action="store_true", help="do not enforce MemorySize")
    given = parser.parse_args(arguments)
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    parent = given.parent or os.getppid()
    settings = PlaneSettings(
        concurrency=given.concurrency, idle=given.idle, retry=given.retry, memory=not given.no_memory
    )
    try:
        plan = parse_plan(json.loads(given.faults.read_text())) if given.faults else None
        server = Server(given.port, settings)
    except (PlanError, OSError, ValueError) as error:
        print(f"emulator: {error}", file=sys.stderr)
        return 2
    if plan is not None:
        server.plane.desk.use(plan)
    ready = {"endpoint": server.endpoint, "pid": os.getpid(), "variables": client_variables(server.endpoint)}
    if given.ready_file:
        fresh = given.ready_file.with_suffix(".new")
        fresh.write_text(json.dumps(ready))
        fresh.replace(given.ready_file)
    print(f"emulator: {server.endpoint} (Ctrl-C stops it)", flush=True)
    while not stop.wait(0.25):
        if not given.no_parent and not _lives(parent):
            break
    server.close()
    return 0


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a request that still waits for its client would hold an ordinary exit up
