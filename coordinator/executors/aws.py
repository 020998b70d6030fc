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
import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from coordinator.cloud import wire
from coordinator.cloud.invoke import Invoke, Reply, fields
from coordinator.cloud.prices import prices
from coordinator.cloud.wire import Request
from coordinator.errors import InputError, StorageError, one_line
from coordinator.executors.polled import Polled, listed
from coordinator.phases import Launch, Outcome
from coordinator.storage import Storage
from coordinator.tasks import Report

LIMIT: Final = 256  # calls under way, unless the user says otherwise
LONG: Final = 30.0  # seconds of computing from which a kernel is called asynchronously
LONGEST: Final = 910.0  # seconds that a call may take on Lambda
_SOON: Final = 0.2  # seconds between looks at storage, at least


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
    key: str = field(compare=False)  # of the result, if it is stored
    generation: int = field(compare=False)
    first: float = field(compare=False)  # when it was submitted
    refusals: int = field(default=0, compare=False)
    function: str = field(default="", compare=False)
    started: float = field(default=0.0, compare=False)  # when it was made; asynchronous: when it was handed in
    began: float | None = field(default=None, compare=False)  # asynchronous: when it was seen to have begun


class LambdaExecutor(Polled):
    """Runs tasks on Lambda functions. Use as a context manager: leaving it lets go of the calls under way.

    Parameters
    ----------
    invoke : calls functions (`coordinator.cloud.signed.HttpInvoke`; tests have their own).
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
        super().__init__(_SOON, clock)
        self.throttled = 0
        self._invoke, self._functions, self._storage = invoke, tuple(functions), storage
        self._mode, self._keep = mode, keep
        self._patience, self._longest, self._hold = patience, longest, hold
        self._congestion = Congestion(limit)
        self._most_threads = 2 * limit  # calls that nobody waits for any more do not hold up others
        self._threads: list[threading.Thread] = []
        self._queue: list[_Call] = []
        self._away: dict[tuple[str, int], _Call] = {}  # asynchronous calls by key and attempt
        self._order = itertools.count()
        self._running = self._idle = 0
        self._level: dict[str, int] = {}  # kernel -> function that it needs
        self._seconds: dict[str, float] = {}  # kernel -> seconds that its longest task has taken
        self._memory: dict[str, int] = {}  # function -> MB, as it says

    def submit(self, launches: Collection[Launch]) -> None:
        now = self._clock()
        with self._lock:
            for launch in launches:
                key = wire.stored_key(launch.task)
                heapq.heappush(self._queue, _Call(now, next(self._order), launch, key, self._generation, now))
            self._pending += len(launches)
            room = min(self._congestion.limit - self._running, self._most_threads - len(self._threads))
            for _ in range(min(len(launches) - self._idle, room)):
                thread = threading.Thread(target=self._serve, name=f"overcast-aws-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._work.notify(len(launches))

    def cancel(self) -> None:
        with self._lock:
            super().cancel()
            self._queue.clear()
            self._away.clear()
            self._running = 0

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
                    self._work.notify()  # this thread takes the one, another may take the next

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
                self._work.wait(pause)
            return None
        finally:
            self._idle -= 1

    def _attempt(self, call: _Call) -> Outcome | None:
        """Make a call; None when it is to be made again, or its result is to come later."""
        call.function = self._functions[self._level.get(call.launch.task.kernel, 0)]
        call.started = self._clock()
        try:
            return self._made(call)
        except _Failure as failure:
            return self._failed(call, failure)
        except Exception as error:  # noqa: BLE001  whatever it is, the attempt has ended
            text = f"the call of {call.function} was lost: {one_line(error, 200) or type(error).__name__}"
            return self._failed(call, _Failure(text, self._cost(call)))

    def _made(self, call: _Call) -> Outcome | None:
        task = call.launch.task
        away = self._mode == "event" or (self._mode == "auto" and self._seconds.get(task.kernel, 0.0) > LONG)
        store = "always" if away or self._keep else "large"
        payload = Request(task, call.key, store, call.launch.attempt, marked=away).to_json()
        reply = self._invoke(call.function, payload, wait=not away, timeout=30.0 if away else self._longest)
        if reply.busy:
            self._refused(call, reply)
            return None
        if reply.status != (202 if away else 200):
            raise _Failure(reply.refusal(call.function), retry=False)
        if away:
            self._handed_in(call)
            return None
        return self._answered(call, reply)

    def _refused(self, call: _Call, reply: Reply) -> None:
        now = self._clock()
        with self._lock:
            self.throttled += 1
            if call.generation != self._generation:
                return
            self._congestion.refused(self._running, now)
            if now - call.first > self._hold:
                said = f"{call.function} has refused calls for {self._hold:.0f} s: {reply.said}"
                raise _Failure(f"{said}; raise its concurrency", retry=False)
            call.refusals += 1
            call.ready = now + random.uniform(0, min(0.05 * 2**call.refusals, 10.0))  # noqa: S311  jitter
            heapq.heappush(self._queue, call)

    def _answered(self, call: _Call, reply: Reply) -> Outcome:
        with self._lock:
            if call.generation == self._generation:
                self._congestion.answered()
        if reply.failed and reply.out_of_memory:
            raise self._out_of_memory(call, self._cost(call))
        if reply.failed:
            raise _Failure(f"{call.function}: {reply.crash}", self._cost(call))
        answer = fields(reply.body)
        report = self._cost(call, wire.report_from(answer.get("report")))
        if answer.get("status") != 200:
            raise self._error(call, answer, report)
        try:
            data = self._storage.get(call.key) if answer.get("stored") else wire.from_text(answer.get("result"))
            return self._result(call, data, report)
        except StorageError as error:
            raise _Failure(str(error), report) from None

    def _result(self, call: _Call, data: bytes, report: Report) -> Outcome:
        """Raises StorageError for data that are no result."""
        kernel = call.launch.task.kernel
        self._seconds[kernel] = max(self._seconds.get(kernel, 0.0), report.compute)
        result = wire.unpack(data, call.key)
        return Outcome(call.launch, result, None, True, call.started, self._clock(), call.function, report)

    def _failed(self, call: _Call, failure: _Failure) -> Outcome:
        text, retry, now = str(failure), failure.retry, self._clock()
        return Outcome(call.launch, None, text, retry, call.started, now, call.function, failure.report)

    def _error(self, call: _Call, answer: dict[str, Any], report: Report) -> _Failure:
        """The worker said what went wrong."""
        if answer.get("status") == 507:
            return self._out_of_memory(call, report)
        error = answer.get("error")
        said = error.get("message") if isinstance(error, dict) else None
        text = str(said or f"{call.function} gave no sensible answer")
        return _Failure(text, report, retry=bool(answer.get("retry", True)))

    def _out_of_memory(self, call: _Call, report: Report) -> _Failure:
        kernel = call.launch.task.kernel
        level = self._functions.index(call.function) + 1
        if level >= len(self._functions):
            remedy = "import the data with a smaller block_bytes"
            text = f"{kernel} needs more memory than {call.function}, the largest worker, has: {remedy}"
            return _Failure(text, report, retry=False)
        with self._lock:
            self._level[kernel] = max(level, self._level.get(kernel, 0))
        return _Failure(f"{kernel} ran out of memory in {call.function}; {self._functions[level]} is next", report)

    def _cost(self, call: _Call, report: Report | None = None) -> Report:
        """The report with dollars in it; what is not known is taken from the seconds the call took here."""
        if report is None:
            seconds = self._clock() - call.started
            report = Report(seconds=seconds, limit=self._memory.get(call.function, 0))
        elif report.limit:
            self._memory[call.function] = report.limit
        billed = report.seconds + report.init
        return replace(report, cost=prices().call(report.limit, billed, report.reads, report.writes))

    # -- asynchronous calls -----------------------------------------------------------------------------------------

    def _handed_in(self, call: _Call) -> None:
        with self._lock:
            if call.generation == self._generation:
                call.started = self._clock()
                self._away[call.key, call.launch.attempt] = call
                self._watch()

    def _look(self) -> None:
        """List the folders of what is away, once each, and take what has come."""
        with self._lock:
            calls, generation = dict(self._away), self._generation
        found = listed(self._storage, (key for key, _ in calls))
        newest = dict(calls.keys())  # attempts share a key: its result is the outcome of the newest alone
        older = [(key, n) for key, n in calls if key in found and n != newest[key]]
        outcomes: dict[tuple[str, int], Outcome] = {}
        for attempt in calls.keys() - older:
            try:
                outcome = self._seen(calls[attempt], found)
            except _Failure as failure:
                outcome = self._failed(calls[attempt], failure)
            if outcome is not None:
                outcomes[attempt] = outcome
        with self._lock:
            if generation == self._generation:
                for attempt in (*older, *outcomes):
                    del self._away[attempt]
                self._pending -= len(older)
                self._looked([*outcomes.values()], left=bool(self._away))

    def _seen(self, call: _Call, found: set[str]) -> Outcome | None:
        """The outcome of a call that has ended, as far as is known. Raises _Failure."""
        attempt, now = call.launch.attempt, self._clock()
        try:
            if call.key in found:
                data = self._storage.get(call.key)
                return self._result(call, data, self._cost(call, wire.packed_report(data, call.key)))
            if (key := wire.error_key(call.key, attempt)) in found:
                answer = fields(self._storage.get(key))
                raise self._error(call, answer, self._cost(call, wire.report_from(answer.get("report"))))
        except StorageError as error:
            raise _Failure(str(error)) from None
        if call.began is None:
            if wire.start_key(call.key, attempt) in found:
                call.began = now
            elif now - call.started > self._patience:
                raise _Failure(f"{call.function} did not begin within {self._patience:.0f} s")
        elif now - call.began > self._longest:
            cost = self._cost(call)
            self._out_of_memory(call, cost)  # what dies without a word has most often run out of memory
            raise _Failure(f"{call.function} began and ended without a word", cost)
        return None


class _Failure(Exception):  # noqa: N818  it never leaves this module
    def __init__(self, text: str, report: Report | None = None, *, retry: bool = True) -> None:
        super().__init__(text)
        self.retry, self.report = retry, report
