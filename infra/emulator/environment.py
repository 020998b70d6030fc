"""One execution environment: a process that runs the Lambda runtime client, and the Runtime API it polls."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Protocol

from infra.emulator import limits
from infra.emulator.endings import Ending, How
from infra.emulator.functions import Function
from infra.emulator.runtime_api import Reply, RuntimeApi

_RESULT = re.compile(r"/invocation/([^/]+)/(response|error)")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(eq=False)
class Invocation:
    """A call on its way: `deadline` is the time.time() at which Lambda kills it, set at hand-over."""

    payload: bytes
    trace: str
    seconds: float  # allowed
    context: str | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    deadline: float = float("inf")
    begun: threading.Event = field(default_factory=threading.Event)  # handed over
    ending: Future[Ending] = field(default_factory=Future)

    def end(self, ending: Ending) -> None:
        """Settle it; the first ending counts."""
        with contextlib.suppress(Exception):  # concurrent.futures has no test-and-set
            self.ending.set_result(ending)
        self.begun.set()


class Owner(Protocol):
    """What an environment tells the plane."""

    def idle(self, environment: Environment) -> None: ...

    def gone(self, environment: Environment) -> None: ...


class Environment:
    """Starts its process at once. `offer` a call, wait for its ending, read `printed()` for its log.

    The plane samples `watch()`, which ends calls that are out of time or memory.
    """

    def __init__(self, function: Function, command: list[str], base: Mapping[str, str], work: Path, owner: Owner):
        self.function = function
        self.peak = 0  # bytes of resident memory, the most seen
        self.init: float | None = None  # seconds from the start to the first poll
        self.used = time.monotonic()
        self.stream = f"{datetime.now(UTC):%Y/%m/%d}/[{function.version}]{uuid.uuid4().hex}"
        self._owner = owner
        self._wake = threading.Condition()
        self._offered: Invocation | None = None
        self._current: Invocation | None = None
        self._answered: tuple[Invocation, Ending] | None = None
        self._dead = False
        self._lines: list[str] = []
        self._partial = b""
        self._reading = threading.Lock()
        self._folder = mkdtemp(prefix="env-", dir=work)
        self._api = RuntimeApi(self._answer)
        self._began = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [*command, function.handler],
            cwd=function.source[0],
            env=self._variables(base),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.output = self._process.stdout.fileno()
        os.set_blocking(self.output, False)
        self._memory = _open_memory(self._process.pid)
        threading.Thread(target=self._reap, daemon=True).start()

    def _variables(self, base: Mapping[str, str]) -> dict[str, str]:
        f = self.function
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "LAMBDA_TASK_ROOT": f.source[0],
            "AWS_LAMBDA_RUNTIME_API": self._api.address,
            "_HANDLER": f.handler,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{f.runtime}",
            "AWS_LAMBDA_FUNCTION_NAME": f.name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(f.memory),
            "AWS_LAMBDA_FUNCTION_VERSION": f.version,
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{f.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": self.stream,
            "AWS_REGION": f.region,
            "AWS_DEFAULT_REGION": f.region,
            "TMPDIR": self._folder,
            "HOME": self._folder,
            "PYTHONUNBUFFERED": "1",
            **base,
            "PYTHONPATH": os.pathsep.join([*f.source, base["PYTHONPATH"]]),
            **dict(f.variables),
        }

    # ------------------------------------------------------------------------------------------------- from the plane

    @property
    def dead(self) -> bool:
        return self._dead or self._process.poll() is not None

    @property
    def pid(self) -> int:
        return self._process.pid

    def offer(self, invocation: Invocation) -> None:
        """Hand it over as soon as the process polls. The environment must be idle or starting."""
        with self._wake:
            self._offered = invocation
            dead = self._dead
            self._wake.notify_all()
        if dead:
            invocation.end(Ending(How.EXIT, code=self._process.returncode))

    def watch(self, *, memory: bool) -> None:
        """Kill the process when its call is out of time or, with `memory`, its resident set over MemorySize."""
        invocation = self._current
        if invocation is None:
            return
        self.peak = max(self.peak, resident := self._resident())
        if time.time() >= invocation.deadline:
            invocation.end(Ending(How.TIMEOUT))
            self.kill()
        elif memory and resident > self.function.memory * limits.MIB:
            invocation.end(Ending(How.OUT_OF_MEMORY))
            self.kill()

    def kill(self) -> None:
        """End the process and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def join(self, seconds: float) -> None:
        """Wait until the process is gone, its threads told and its folder removed."""
        until = time.monotonic() + seconds
        with self._wake:
            while not self._dead and (left := until - time.monotonic()) > 0:
                self._wake.wait(left)

    def printed(self) -> list[str]:
        """Lines printed since the last call of this."""
        self.drain()
        with self._reading:
            lines, self._lines = self._lines, []
        return lines

    def drain(self) -> None:
        """Read what the process has printed by now, without waiting."""
        with self._reading, contextlib.suppress(OSError, ValueError):
            while chunk := os.read(self.output, 65536):
                *lines, self._partial = (self._partial + chunk).split(b"\n")
                self._lines += [line.decode("utf-8", "replace") for line in lines]

    def _resident(self) -> int:
        memory = self._memory
        if memory is None:
            return 0
        try:
            return int(os.pread(memory, 64, 0).split()[1]) * _PAGE
        except (OSError, IndexError, ValueError):  # the process is gone
            return 0

    # ---------------------------------------------------------------------------------------------- from the process

    def _answer(self, path: str, body: bytes) -> Reply | None:
        if path == "/invocation/next":
            return self._next()
        if found := _RESULT.fullmatch(path):
            return self._result(found[1], found[2], body)
        if path == "/init/error":
            with self._wake:
                invocation = self._offered
            if invocation is not None:
                self.drain()
                invocation.end(Ending(How.ERROR, body))
            return 202, {}, b"{}"
        return 404, {}, b"{}"

    def _next(self) -> Reply | None:
        if self.init is None:
            self.init = time.monotonic() - self._began
        with self._wake:
            served, self._current = self._current, None
            answered, self._answered = self._answered, None
        self.used = time.monotonic()
        if served is not None:  # a first poll: started for a call that is still on its way
            self._owner.idle(self)
        # The caller hears only now, so that one that calls again at once finds this environment warm.
        if answered is not None:
            answered[0].end(answered[1])
        with self._wake:
            while self._offered is None:
                if self._dead:
                    return None
                self._wake.wait(5)
            invocation, self._offered = self._offered, None
            invocation.deadline = time.time() + invocation.seconds
            self._current = invocation
        invocation.begun.set()
        headers = {
            "Lambda-Runtime-Aws-Request-Id": invocation.id,
            "Lambda-Runtime-Deadline-Ms": str(int(invocation.deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": self.function.arn,
            "Lambda-Runtime-Trace-Id": invocation.trace,
        }
        if invocation.context:
            headers["Lambda-Runtime-Client-Context"] = invocation.context
        return 200, headers, invocation.payload

    def _result(self, request: str, kind: str, body: bytes) -> Reply:
        invocation = self._current
        if invocation is None or invocation.id != request:
            return 400, {}, b'{"errorType":"InvalidRequestID"}'
        self.drain()  # all that was printed before the answer is in the pipe by now
        self.peak = max(self.peak, self._resident())
        if kind == "response" and len(body) > limits.SYNC_RESPONSE:
            self._answered = (invocation, Ending(How.TOO_LARGE))
            return 413, {}, b'{"errorType":"RequestEntityTooLarge"}'
        self._answered = (invocation, Ending(How.OK if kind == "response" else How.ERROR, body))
        return 202, {}, b"{}"

    def _reap(self) -> None:
        code = self._process.wait()
        self.drain()
        self._api.close()
        with self._wake:
            self._dead = True
            left = [self._current, self._offered]
            answered = self._answered
            self._wake.notify_all()
        if answered is not None:
            answered[0].end(answered[1])
        for invocation in left:
            if invocation is not None:
                invocation.end(Ending(How.EXIT, code=code))
        shutil.rmtree(self._folder, ignore_errors=True)
        self._owner.gone(self)
        with self._reading:
            self.output = -1  # what is opened next gets the number
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
        memory, self._memory = self._memory, None
        if memory is not None:
            os.close(memory)


def _open_memory(process: int) -> int | None:
    """Where the system tells a process's memory; None on one without /proc."""
    try:
        return os.open(f"/proc/{process}/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
