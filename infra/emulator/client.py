"""The emulator as its users hold it: a process of its own, started and stopped, its control at hand."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


class Emulator:
    """A running emulator: `endpoint`, `pid`, and the `variables` with which AWS's tools find it."""

    def __init__(self, endpoint: str, pid: int, variables: Mapping[str, str]) -> None:
        self.endpoint, self.pid, self.variables = endpoint, pid, dict(variables)

    def client(self, service: str) -> Any:
        """A boto3 client of the user that may do everything."""
        return client(service, self.variables)

    def faults(self, plan: Mapping[str, Any] | None = None) -> None:
        """Put a fault plan in force; none, or an empty one, ends all faults and forgets the counts."""
        self._control("PUT", "faults", dict(plan or {}))

    def applied(self) -> dict[str, Any]:
        """Faults applied under the plan in force, by kind, and invocations by function."""
        found: dict[str, Any] = self._control("GET", "faults")
        return found

    def counts(self) -> dict[str, Any]:
        """Counts by function, and of S3 requests and bytes by method and first folder of the key."""
        found: dict[str, Any] = self._control("GET", "counts")
        return found

    def processes(self) -> list[int]:
        """Process ids of the execution environments."""
        found: list[int] = self._control("GET", "processes")
        return found

    def process(self) -> int | None:
        """Process id of the emulator that answers here; None where none does."""
        try:
            return int(self._control("GET", "health")["pid"])
        except (OSError, ValueError, KeyError):
            return None

    def _control(self, method: str, what: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.endpoint}/_emulator/{what}", data, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - http on 127.0.0.1
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(json.loads(error.read())["message"]) from None


class EmulatorProcess(Emulator):
    """An emulator that this process starts. Use as a context manager: leaving it stops the emulator."""

    def __init__(self, options: list[str] | None = None) -> None:
        with tempfile.TemporaryDirectory() as folder:
            ready = Path(folder) / "ready.json"
            command = [sys.executable, "-m", "infra.emulator", "--ready-file", str(ready), *(options or [])]
            self._process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.DEVNULL)  # noqa: S603
            found = wait_ready(ready, self._process)
        super().__init__(found["endpoint"], found["pid"], found["variables"])

    def __enter__(self) -> EmulatorProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)


def wait_ready(ready: Path, process: subprocess.Popen[bytes], seconds: float = 60.0) -> dict[str, Any]:
    """Content of the ready file, once it is there; RuntimeError where the emulator ends first or takes too long."""
    until = time.monotonic() + seconds
    while not ready.exists():
        if process.poll() is not None:
            raise RuntimeError(f"the emulator ended with code {process.returncode} before it was ready")
        if time.monotonic() > until:
            process.terminate()
            raise RuntimeError(f"the emulator was not ready after {seconds:.0f} s")
        time.sleep(0.02)
    found: dict[str, Any] = json.loads(ready.read_text())
    return found


def client(service: str, variables: Mapping[str, str]) -> Any:
    """A boto3 client that goes by these environment variables alone, without retries of its own."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        service,
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=variables.get("AWS_SESSION_TOKEN"),
        region_name=variables["AWS_DEFAULT_REGION"],
        config=Config(retries={"total_max_attempts": 1}, max_pool_connections=64, read_timeout=900),
    )
