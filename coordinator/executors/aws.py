"""The AWS executor: tasks as calls of Lambda functions.

A call waits for its answer in a thread. Small results come in the answer, larger ones are read from storage. Tasks
whose kernel has proved to take long are called asynchronously: they store their result, and one LIST of each folder at
growing intervals finds what has come. A call that does not say in storage that it began, within a patience, never
started: that is a failed attempt like others, and the phase launches another.

A refusal for too many requests (429) is no failure: the call is made again later, and the number of calls under way
goes down by half and up by one for each round of answers, as congestion control has it. Kernels that run out of
memory move on to the function with the next larger memory.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Final, Literal, Protocol

from coordinator.cloud import wire
from coordinator.cloud.prices import prices
from coordinator.cloud.wire import Request
from coordinator.errors import InputError, KeyMissingError, OvercastError, StorageError
from coordinator.phases import Launch, Outcome
from coordinator.storage import Storage
from coordinator.tasks import Arrays, Report

LIMIT: Final = 256  # calls under way, unless the user says otherwise
LONG: Final = 30.0  # seconds of computing from which a kernel is called asynchronously
LONGEST: Final = 910.0  # seconds that a call may take on Lambda
_OUT_OF_MEMORY: Final = ("OutOfMemory", "signal: killed", "out of memory")
_BUSY: Final = {429, 500, 502, 503, 504}
_Stop = Callable[[], bool]


@dataclass(frozen=True)
class Reply:
    """What the Lambda service answered: HTTP status, body, and whether the function failed ("" or the kind)."""

    status: int
    body: bytes
    failed: str = ""


class Invoke(Protocol):
    """Calls a function: waits for its answer, or only hands the call in. OSError when the connection is lost."""

    def __call__(self, function: str, payload: bytes, *, wait: bool, timeout: float) -> Reply: ...


@dataclass
class Congestion:
    """How many calls may be under way: halved by refusals, at most once in `rest` seconds, and slowly raised again."""

    limit: int
    rest: float = 0.5
    window: float = field(init=False)
    _cut: float = float("-inf")

    def __post_init__(self) -> None:
        self.window = float(self.limit)

    def refused(self, running: int, now: float) -> None:
        """A call was refused while `running` were under way."""
        if now - self._cut >= self.rest:
            self._cut = now
            self.window = max(1.0, min(self.window, running) / 2)

    def answered(self) -> None:
        self.window = min(float(self.limit), self.window + 1 / self.window)

    def allows(self, running: int) -> bool:
        return running < int(self.window)


@dataclass(order=True)
class _Call:
    ready: float
    order: int
    launch: Launch = field(compare=False)
    key: str = field(compare=False)
    generation: int = field(compare=False)
    refusals: int = field(default=0, compare=False)
    first: float = field(default=0.0, compare=False)  # when it was first tried
    began: float | None = field(default=None, compare=False)  # asynchronous: when it was seen to have begun
    function: str = field(default="", compare=False)


class LambdaExecutor:
    """Runs tasks on Lambda functions. Use as a context manager: leaving it lets go of the calls under way.

    Parameters
    ----------
    invoke : calls functions (`coordinator.cloud.http.HttpInvoke`; tests have their own).
    functions : names of the worker, by increasing memory.
    storage : where tasks store results.
    limit : most calls under way at once.
    mode : "sync", "event" (asynchronous), or "auto", by what kernels have taken.
    keep : store every result, and take those that are stored already.
    patience : seconds after which an asynchronous call that has not begun never will.
    longest : seconds after which a call that has begun has died.
    hold : seconds of refusals only after which a task fails.
    clock : for tests.
    """

    def __init__(
        self,
        invoke: Invoke,
        functions: Sequence[str],
        storage: Storage,
        *,
        limit: int = LIMIT,
        mode: Literal["auto", "sync", "event"] = "auto",
        keep: bool = False,
        patience: float = 60.0,
        longest: float = LONGEST,
        hold: float = 600.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if limit < 1 or not functions:
            raise InputError(f"workers must be >= 1, not {limit}, and there must be a worker function")
        self.throttled = 0
        self._invoke, self._functions, self._storage = invoke, tuple(functions), storage
        self._mode, self._keep = mode, keep
        self._patience, self._longest, self._hold, self._clock = patience, longest, hold, clock
        self._congestion = Congestion(limit)
        self._most_threads = 2 * limit  # calls that nobody waits for any more do not hold up others
        mutex = threading.RLock()
        self._lock, self._news = threading.Condition(mutex), threading.Condition(mutex)
        self._queue: list[_Call] = []
        self._done: deque[Outcome] = deque()
        self._away: dict[str, _Call] = {}  # asynchronous calls by key
        self._order = itertools.count()
        self._generation = 0
        self._running = self._idle = self._pending = 0
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._level: dict[str, int] = {}  # kernel -> function that it needs
        self._seconds: dict[str, float] = {}  # kernel -> seconds that its longest task has taken
        self._memory: dict[str, int] = {}  # function -> MB, as it says
        self._look_at = 0.0
        self._interval = _SOON

    def __enter__(self) -> LambdaExecutor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- the executor's interface -----------------------------------------------------------------------------------

    def submit(self, launches: Collection[Launch]) -> None:
        now = self._clock()
        calls = [
            _Call(now, next(self._order), launch, wire.stored_key(launch.task), 0, first=now) for launch in launches
        ]
        with self._lock:
            for call in calls:
                call.generation = self._generation
                heapq.heappush(self._queue, call)
            self._pending += len(calls)
            room = min(self._congestion.limit - self._running, self._most_threads - len(self._threads))
            for _ in range(min(len(calls) - self._idle, room)):
                thread = threading.Thread(target=self._serve, name=f"overcast-aws-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._lock.notify(len(calls))

    def poll(self, timeout: float) -> list[Outcome]:
        until = self._clock() + timeout
        while True:
            with self._lock:
                now = self._clock()
                look = bool(self._away) and now >= self._look_at
                if not look:
                    if not self._done and self._pending and now < until:
                        next_look = self._look_at if self._away else until
                        self._rest(max(min(until, next_look) - now, 0.0))
                        now = self._clock()
                    if self._done or not self._pending or now >= until:
                        out = list(self._done)
                        self._done.clear()
                        self._pending -= len(out)
                        return out
            if look:
                self._look()

    def cancel(self) -> None:
        with self._lock:
            self._generation += 1
            self._queue.clear()
            self._done.clear()
            self._away.clear()
            self._running = self._pending = 0

    def close(self) -> None:
        """Let go of everything; threads end when their calls do."""
        self.cancel()
        with self._lock:
            self._closed = True
            self._lock.notify_all()

    def _rest(self, seconds: float) -> None:
        """Wait for news, holding the lock before and after."""
        self._news.wait(seconds)

    # -- calls in threads -------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._lock:
                call = self._next()
                if call is None:
                    return
            outcome = self._attempt(call)
            with self._lock:
                if call.generation != self._generation:
                    continue
                self._running -= 1
                if outcome is not None:
                    self._done.append(outcome)
                    self._news.notify()
                if len(self._queue) > 1 and self._congestion.allows(self._running + 1):
                    self._lock.notify()  # this thread takes the one, another may take the next

    def _next(self) -> _Call | None:
        """The next call that may be made now; None when the executor is closed."""
        self._idle += 1
        try:
            while not self._closed:
                pause = None
                if self._queue and self._congestion.allows(self._running):
                    pause = self._queue[0].ready - self._clock()
                    if pause <= 0:
                        self._running += 1
                        return heapq.heappop(self._queue)
                self._lock.wait(pause)
            return None
        finally:
            self._idle -= 1

    def _attempt(self, call: _Call) -> Outcome | None:
        """Make a call; None when it is to be made again, or its result is to come later."""
        launch = call.launch
        kernel = launch.task.kernel
        call.function = self._functions[self._level.get(kernel, 0)]
        away = self._mode == "event" or (self._mode == "auto" and self._seconds.get(kernel, 0.0) > LONG)
        store = "always" if away or self._keep else "large"
        payload = Request(launch.task, call.key, store, launch.attempt, marked=away).to_json()
        started = self._clock()
        try:
            if away:
                self._send_away(call, payload)
                return None
            reply = self._invoke(call.function, payload, wait=True, timeout=self._longest)
            answer = self._understood(call, reply, started)
            if answer is None:
                return None
            result, report = answer
        except _Failure as failure:
            cost = self._cost(call.function, failure.report, self._clock() - started)
            return Outcome(launch, None, failure.text, failure.retry, started, self._clock(), call.function, cost)
        except OvercastError as error:
            return Outcome(launch, None, str(error), True, started, self._clock(), call.function)
        except Exception as error:  # noqa: BLE001  whatever it is, the attempt has ended
            text = f"the call of {call.function} was lost: {' '.join(str(error).split())[:200] or type(error).__name__}"
            cost = self._cost(call.function, None, self._clock() - started)
            return Outcome(launch, None, text, True, started, self._clock(), call.function, cost)
        return Outcome(launch, result, None, True, started, self._clock(), call.function, report)

    def _understood(self, call: _Call, reply: Reply, started: float) -> tuple[Arrays, Report | None] | None:
        """Result and report of an answer; None for a refusal. Raises _Failure."""
        if reply.status in _BUSY:
            self._refused(call, reply)
            return None
        if reply.status != 200:
            raise _Failure(_refusal(call.function, reply), retry=False)
        with self._lock:
            if call.generation == self._generation:
                self._congestion.answered()
        if reply.failed:
            raise self._crashed(call, reply.body)
        answer = _json(reply.body)
        report = self._cost(call.function, wire.report_from(answer.get("report")), self._clock() - started)
        if answer.get("status") != 200:
            raise self._failed(call, answer, report)
        if answer.get("stored"):
            return wire.unpack(self._storage.get(call.key), call.key), report
        data = wire.from_text(answer.get("result"))
        self._note(call, report)
        return wire.unpack(data), report

    def _refused(self, call: _Call, reply: Reply) -> None:
        now = self._clock()
        with self._lock:
            self.throttled += 1
            self._congestion.refused(self._running, now)
            if now - call.first > self._hold:
                text = (
                    f"{call.function} has refused calls for {self._hold:.0f} s: {_said(reply)}; raise its concurrency"
                )
                raise _Failure(text, retry=False)
            call.refusals += 1
            call.ready = now + random.uniform(0, min(0.05 * 2**call.refusals, 10.0))  # noqa: S311  jitter
            if call.generation == self._generation:
                heapq.heappush(self._queue, call)

    def _crashed(self, call: _Call, body: bytes) -> _Failure:
        """The function's process failed: killed, timed out, or could not be started."""
        said = _json(body)
        kind, message = str(said.get("errorType", "")), str(said.get("errorMessage", ""))
        if any(word in f"{kind} {message}" for word in _OUT_OF_MEMORY):
            return self._out_of_memory(call)
        return _Failure(f"{call.function}: {kind}: {' '.join(message.split())[:300]}".replace(": :", ":"))

    def _failed(self, call: _Call, answer: dict[str, Any], report: Report | None) -> _Failure:
        """The worker said what went wrong."""
        error = answer.get("error")
        said = error if isinstance(error, dict) else {}
        if answer.get("status") == 507:
            return self._out_of_memory(call, report)
        text = str(said.get("message", "")) or f"{call.function} gave no sensible answer"
        return _Failure(text, retry=bool(answer.get("retry", True)), report=report)

    def _out_of_memory(self, call: _Call, report: Report | None = None) -> _Failure:
        kernel = call.launch.task.kernel
        level = self._functions.index(call.function) + 1
        if level >= len(self._functions):
            remedy = "import the data with a smaller block_bytes"
            text = f"{kernel} needs more memory than {call.function}, the largest worker, has: {remedy}"
            return _Failure(text, retry=False, report=report)
        with self._lock:
            self._level[kernel] = max(level, self._level.get(kernel, 0))
        return _Failure(
            f"{kernel} ran out of memory in {call.function}; {self._functions[level]} is next", report=report
        )

    def _note(self, call: _Call, report: Report | None) -> None:
        if report is not None:
            kernel = call.launch.task.kernel
            self._seconds[kernel] = max(self._seconds.get(kernel, 0.0), report.compute)

    def _cost(self, function: str, report: Report | None, seconds: float) -> Report:
        """The report with dollars in it; what is not known is taken from the seconds the call took here."""
        if report is None:
            report = Report(seconds=seconds, limit=self._memory.get(function, 0))
        elif report.limit:
            self._memory[function] = report.limit
        billed = report.seconds + report.init
        return replace(report, cost=prices().call(report.limit, billed, report.reads, report.writes))

    # -- asynchronous calls -----------------------------------------------------------------------------------------

    def _send_away(self, call: _Call, payload: bytes) -> None:
        with self._lock:
            if call.generation != self._generation:
                return
            call.began = None
            if not self._away:
                self._interval = _SOON
                self._look_at = self._clock() + self._interval
            self._away[call.key] = call
        reply = self._invoke(call.function, payload, wait=False, timeout=30.0)
        if reply.status == 202:
            with self._lock:
                call.ready = self._clock()  # when it was handed in
            return
        with self._lock:
            self._away.pop(call.key, None)
        if reply.status in _BUSY:
            self._refused(call, reply)
            return
        raise _Failure(_refusal(call.function, reply), retry=False)

    def _look(self) -> None:
        """List the folders of what is away, once each, and take what has come."""
        with self._lock:
            calls = list(self._away.values())
        found: set[str] = set()
        for folder in sorted({call.key.rpartition("/")[0] for call in calls}):
            found.update(self._storage.list(folder))
        now = self._clock()
        outcomes = [outcome for call in calls if (outcome := self._seen(call, found, now)) is not None]
        with self._lock:
            live = [outcome for outcome in outcomes if self._away.pop(wire.stored_key(outcome.launch.task), None)]
            self._done.extend(live)
            self._interval = max(_SOON, self._interval / 2) if live else min(1.5 * self._interval, _SELDOM)
            self._look_at = self._clock() + self._interval

    def _seen(self, call: _Call, found: set[str], now: float) -> Outcome | None:
        launch, function = call.launch, call.function
        if call.key in found:
            try:
                data = self._storage.get(call.key)
                report = self._cost(function, wire.packed_report(data, call.key), now - call.ready)
                self._note(call, report)
                return Outcome(launch, wire.unpack(data, call.key), None, True, call.ready, now, function, report)
            except StorageError as error:
                return Outcome(launch, None, str(error), True, call.ready, now, function)
        if (key := wire.error_key(call.key, launch.attempt)) in found:
            try:
                answer = _json(self._storage.get(key))
            except KeyMissingError:
                answer = {}
            failure = self._failed(call, answer, self._cost(function, wire.report_from(answer.get("report")), 0.0))
            return Outcome(launch, None, failure.text, failure.retry, call.ready, now, function, failure.report)
        if call.began is None:
            if wire.start_key(call.key, launch.attempt) in found:
                call.began = now
            elif now - call.ready > self._patience:
                text = f"{function} did not begin within {self._patience:.0f} s"
                return Outcome(launch, None, text, True, call.ready, now, function)
        elif now - call.began > self._longest:
            # what dies without a word has most often run out of memory
            self._out_of_memory(call)
            text = f"{function} began and ended without a word"
            cost = self._cost(function, None, now - call.began)
            return Outcome(launch, None, text, True, call.ready, now, function, cost)
        return None


_SOON: Final = 0.2  # seconds between looks at storage: the first, and the most
_SELDOM: Final = 5.0


class _Failure(Exception):  # noqa: N818  it never leaves this module
    def __init__(self, text: str, *, retry: bool = True, report: Report | None = None) -> None:
        super().__init__(text)
        self.text, self.retry, self.report = text, retry, report


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _said(reply: Reply) -> str:
    said = _json(reply.body)
    return " ".join(str(said.get("message") or said.get("Message") or f"HTTP {reply.status}").split())[:200]


def _refusal(function: str, reply: Reply) -> str:
    remedy = {
        403: "the caller's role may not invoke it; see the policies of the deployment",
        404: "deploy first, or check OVERCAST_WORKERS",
        413: "the task's parameters are larger than Lambda takes",
    }
    return f"cannot call {function}: {_said(reply)}: {remedy.get(reply.status, 'see the function in the AWS console')}"
