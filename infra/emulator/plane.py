"""The data plane: pools of execution environments, concurrency, and the way of one invocation through them."""

from __future__ import annotations

import contextlib
import select
import shutil
import sys
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.emulator import access, cloudwatch, endings, trace
from infra.emulator.desk import FaultDesk
from infra.emulator.endings import Ending, How, Outcome
from infra.emulator.environment import Environment, Invocation
from infra.emulator.faults import Fault
from infra.emulator.functions import CodeStore, Function, InvokeError, host_runtime, read
from infra.emulator.runtime_dir import make_runtime_dir

_TICK = 0.02  # seconds between samples of time and memory


@dataclass(frozen=True)
class PlaneSettings:
    """How the data plane behaves.

    Attributes
    ----------
    concurrency : concurrent executions of the account; one more is answered with 429.
    idle : seconds after which an unused environment goes.
    init : seconds that an environment may take to start.
    memory : whether MemorySize is enforced.
    retry : seconds before the first retry of an asynchronous invocation (Lambda waits a minute).
    """

    concurrency: int = 64
    idle: float = 300.0
    init: float = 60.0
    memory: bool = True
    retry: float = 0.2


class Plane:
    """Runs functions. `endpoint` is where they find AWS; `work` a folder of its own, removed by `close`."""

    def __init__(self, endpoint: str, work: Path, settings: PlaneSettings) -> None:
        self.settings = settings
        self.desk = FaultDesk()
        self.stopping = threading.Event()
        self._endpoint = endpoint
        self._work = work
        self._runtime = str(make_runtime_dir(work / "runtime"))
        self._code = CodeStore(work / "code")
        self._command = [sys.executable, "-S", str(Path(__file__).with_name("launch.py"))]
        self._lock = threading.Lock()
        self._pools: dict[Function, list[Environment]] = defaultdict(list)
        self._environments: set[Environment] = set()
        self._running: Counter[str] = Counter()
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        (work / "tmp").mkdir()
        threading.Thread(target=self._watch, daemon=True).start()
        threading.Thread(target=self._listen, daemon=True).start()

    # ------------------------------------------------------------------------------------------------ invocations

    def invoke(
        self, model: Any, payload: bytes, header: str = "", context: str | None = None, request: str | None = None
    ) -> Outcome:
        """Run a moto function to its end; InvokeError says why not.

        `header` : the trace header that the caller sent. `request` : the invocation's id, if it has one already.
        """
        request = request or str(uuid.uuid4())
        function = self.read(model)
        fault = self.desk.decide(function.name, payload)
        if fault is not None and fault.kind == "throttle":
            self._counts[function.name]["throttled"] += 1
            raise throttled("ReservedFunctionConcurrentInvocationLimitExceeded")
        passed = trace.passed_on(header, function)
        if fault is not None and fault.kind == "duplicate":
            again = Invocation(payload, passed, function.timeout, context, request)
            threading.Thread(target=self._twice, args=(model, function, again), daemon=True).start()
        with self._slot(function):
            outcome = self._run(model, function, Invocation(payload, passed, function.timeout, context, request), fault)
        if fault is not None and fault.kind == "late":
            self.stopping.wait(fault.seconds)
        return outcome

    def read(self, model: Any) -> Function:
        """The function of a moto model; InvokeError where it cannot run here."""
        function = read(model, self._code)
        if function.runtime != host_runtime():
            message = f"{function.name} wants {function.runtime}; this emulator runs on {host_runtime()} and only that"
            raise InvokeError(502, "InvalidRuntimeException", message)
        return function

    def _twice(self, model: Any, function: Function, invocation: Invocation) -> None:
        with contextlib.suppress(InvokeError), self._slot(function):
            self._run(model, function, invocation, None)

    def _run(self, model: Any, function: Function, invocation: Invocation, fault: Fault | None) -> Outcome:
        environment, cold = self._environment(function)
        began = time.monotonic()
        ending = self._ending(environment, invocation, fault)
        seconds = time.monotonic() - began
        counts = self._counts[function.name]
        with self._lock:
            counts["invocations"] += 1
            counts["cold"] += cold
            counts["errors"] += ending.how is not How.OK
        body, error = endings.payload(ending, function, invocation.id)
        init = environment.init if cold else None
        lines = endings.log_text(
            function, invocation.id, environment.printed(), seconds, environment.peak, init, ending.how
        )
        cloudwatch.write(model, environment.stream, lines)
        return Outcome(body, error, "\n".join(lines) + "\n", invocation.id)

    def _ending(self, environment: Environment, invocation: Invocation, fault: Fault | None) -> Ending:
        """Run the call under its fault."""
        kind = "" if fault is None else fault.kind
        seconds = 0.0 if fault is None else fault.seconds
        if kind == "straggle":
            self.stopping.wait(min(seconds, invocation.seconds))
            invocation.seconds -= seconds
            if invocation.seconds <= 0:
                environment.kill()
                return Ending(How.TIMEOUT)
        if kind not in {"die", "exit", "oom"}:
            environment.offer(invocation)
            return invocation.ending.result()
        if seconds > 0:
            environment.offer(invocation)
            invocation.begun.wait()
            began = time.monotonic()
            with contextlib.suppress(TimeoutError):
                invocation.ending.result(seconds)
            invocation.seconds -= time.monotonic() - began
        invocation.end(Ending(How.EXIT, code=1))
        environment.kill()
        environment.join(5)
        if kind == "die":
            self.stopping.wait(max(invocation.seconds, 0))
        return Ending(How.OUT_OF_MEMORY) if kind == "oom" else Ending(How.EXIT, code=1)

    @contextlib.contextmanager
    def _slot(self, function: Function) -> Iterator[None]:
        """Count the call among the running ones, or refuse it with 429."""
        name = function.name
        with self._lock:
            if function.reserved is not None and self._running[name] >= function.reserved:
                self._counts[name]["throttled"] += 1
                raise throttled("ReservedFunctionConcurrentInvocationLimitExceeded")
            if function.reserved is None and self._running.total() >= self.settings.concurrency:
                self._counts[name]["throttled"] += 1
                raise throttled("ConcurrentInvocationLimitExceeded")
            self._running[name] += 1
            self._counts[name]["peak"] = max(self._counts[name]["peak"], self._running[name])
        try:
            yield
        finally:
            with self._lock:
                self._running[name] -= 1

    # ----------------------------------------------------------------------------------------------- environments

    def _environment(self, function: Function) -> tuple[Environment, bool]:
        """An idle environment, the last used first, or a new one; and whether it is new."""
        key = function.environment_key
        with self._lock:
            pool = self._pools[key]
            while pool:
                if not (environment := pool.pop()).dead:
                    return environment, False
            unwanted = self._unwanted(key)
        for old in unwanted:
            old.kill()
        variables = {
            "AWS_ENDPOINT_URL": self._endpoint,
            "PYTHONPATH": self._runtime,
            **access.role_variables(function.role, function.region, function.name),
        }
        environment = Environment(key, self._command, variables, self._work / "tmp", self)
        with self._lock:
            self._environments.add(environment)
        return environment, True

    def _unwanted(self, key: Function) -> list[Environment]:
        """Idle environments, out of their pools, that go before one of `key` starts: of older code, or too many."""
        idle = [environment for pool in self._pools.values() for environment in pool]
        gone = [e for e in idle if (e.function.name, e.function.version) == (key.name, key.version)]
        if not gone and idle and len(self._environments) >= self.settings.concurrency:
            gone = [min(idle, key=lambda environment: environment.used)]
        for environment in gone:
            self._pools[environment.function].remove(environment)
        return gone

    def idle(self, environment: Environment) -> None:
        with self._lock:
            if environment in self._environments:
                self._pools[environment.function].append(environment)

    def gone(self, environment: Environment) -> None:
        with self._lock:
            self._environments.discard(environment)
            pool = self._pools[environment.function]
            if environment in pool:
                pool.remove(environment)

    def _watch(self) -> None:
        """Enforce time limits and memory; end environments that are unused or do not start."""
        while not self.stopping.wait(_TICK):
            now = time.monotonic()
            with self._lock:
                every = list(self._environments)
                unused = [e for pool in self._pools.values() for e in pool if now - e.used > self.settings.idle]
                for environment in unused:
                    self._pools[environment.function].remove(environment)
            for environment in unused:
                environment.kill()
            for environment in every:
                environment.watch(memory=self.settings.memory)
                if environment.init is None and now - environment.used > self.settings.init:
                    environment.kill()

    def _listen(self) -> None:
        """Read what environments print, so that none of them waits for a full pipe."""
        while not self.stopping.wait(0.01):
            with self._lock:
                outputs = {environment.output: environment for environment in self._environments}
            poll = select.poll()
            for output in outputs:
                poll.register(output, select.POLLIN)
            for output, _ in poll.poll(250):
                outputs[output].drain()

    # ----------------------------------------------------------------------------------------------------- control

    def counts(self) -> dict[str, dict[str, int]]:
        """Invocations, cold starts, errors, throttled and undelivered calls and peak concurrency by function."""
        with self._lock:
            return {name: dict(counter) for name, counter in self._counts.items()}

    def undelivered(self, function: Function) -> None:
        """Count a failed invocation that its destination was not told of."""
        with self._lock:
            self._counts[function.name]["undelivered"] += 1

    def pids(self) -> list[int]:
        """Processes of the environments that live."""
        with self._lock:
            return sorted(environment.pid for environment in self._environments)

    def close(self) -> None:
        """End every environment and remove the work folder."""
        self.stopping.set()
        with self._lock:
            every = list(self._environments)
        for environment in every:
            environment.kill()
        for environment in every:
            environment.join(3)
        shutil.rmtree(self._work, ignore_errors=True)


def throttled(reason: str) -> InvokeError:
    """Lambda's 429."""
    return InvokeError(429, "TooManyRequestsException", "Rate Exceeded.", reason)
