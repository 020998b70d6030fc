"""The Lithops executor: the same tasks on every back end of Lithops, from processes here to Kubernetes.

A phase's tasks go out in as many calls as there are workers (`coordinator.cloud.batch` says why). Results lie in our
storage, in our codec: one LIST of each folder at growing, bounded intervals finds them. What Lithops has to say of a
call is looked at for one thing only, whether it has ended: one that has, without leaving a result, is a failed attempt,
told to the policy like any other. Lithops' own statuses hold pickles; none is unpickled here.

What Lithops 3.8 leaves to its users is seen to: `wait` for any of many futures takes seconds on remote back ends (it
is not called); futures cannot be cancelled (an object in the storage tells calls that nobody waits for them, and
back ends that can end what runs are asked to); a call that dies without a word never ends for Lithops (patience); and
one refused request ends the invocation of a whole batch (it is invoked again, after growing pauses).
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import pickletools
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Protocol

from coordinator.cloud import batch, wire
from coordinator.cloud.wire import Request
from coordinator.errors import ConflictError, InputError, KeyMissingError, StorageError
from coordinator.executors.local import default_workers
from coordinator.phases import Launch, Outcome
from coordinator.storage import FileStorage, Storage

WORKERS: Final = 32  # calls of one phase, unless the user says otherwise, where Lithops runs elsewhere
REFUSALS: Final = 5  # times that Lithops may fail to invoke a batch
_SELDOM: Final = 5.0  # seconds between looks at storage, at most


class Pool(Protocol):
    """Where calls run. Its methods are called from one thread."""

    def start(self, requests: Sequence[str]) -> list[Any]:
        """A handle for each call of `batch.call`. Any exception: none was made."""
        ...

    def ended(self, handle: Any) -> str | None:
        """None while a call may still be under way, then what is known of its end."""
        ...

    def drop(self, handles: Sequence[Any]) -> None:
        """Nobody waits for these calls any more: end them, where that is possible."""
        ...

    def close(self) -> None: ...


@dataclass
class _Call:
    """One call, and the launches it is for that have no outcome yet, by their key."""

    launches: dict[tuple[str, int], Launch]
    handle: Any
    handed: float  # when it was handed to Lithops
    sign: float | None = None  # when it last gave a sign of life
    seen: set[str] = field(default_factory=set)


class LithopsExecutor:
    """Runs tasks on a pool. Use as a context manager: leaving it ends what can be ended.

    Parameters
    ----------
    pool : where calls run (`LithopsPool`; tests have their own).
    storage : a store that the workers reach, too.
    root : folder of the job's scratch objects in it.
    workers : calls of one phase.
    patience : seconds without a sign of life from anywhere after which a call that has not begun never will.
    longest : seconds without a sign of life of its own after which a call that has begun has died.
    soon : seconds between looks at storage, at least.
    pause : seconds until Lithops is asked again after it failed to invoke; they double each time.
    """

    def __init__(
        self,
        pool: Pool,
        storage: Storage,
        root: str,
        *,
        workers: int = WORKERS,
        patience: float = 300.0,
        longest: float = 1800.0,
        soon: float | None = None,
        pause: float = 1.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if workers < 1:
            raise InputError(f"workers must be >= 1, not {workers}")
        self._pool, self._storage, self._where = pool, storage, batch.describe(storage)
        self._root, self._workers = root.rstrip("/"), workers
        self._patience, self._longest, self._pause, self._clock = patience, longest, pause, clock
        # a look at files costs nothing, one at a bucket a request for each folder
        self._soon = soon if soon is not None else 0.02 if isinstance(storage, FileStorage) else 0.2
        self._token = secrets.token_hex(4)
        self._news = threading.Condition()
        self._orders: deque[Callable[[], None]] = deque()
        self._done: deque[Outcome] = deque()
        self._calls: list[_Call] = []
        self._life = float("-inf")  # the last sign from any call
        self._generation = self._pending = 0
        self._closed = False
        self._look_at, self._interval = 0.0, self._soon
        self._thread = threading.Thread(target=self._serve, name="overcast-lithops", daemon=True)
        self._thread.start()

    def __enter__(self) -> LithopsExecutor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- the executor's interface -----------------------------------------------------------------------------------

    def submit(self, launches: Collection[Launch]) -> None:
        given = list(launches)
        with self._news:
            generation = self._generation
            self._pending += len(given)
            self._orders.append(lambda: self._hand_in(given, generation))
            self._news.notify_all()

    def poll(self, timeout: float) -> list[Outcome]:
        until = self._clock() + timeout
        while True:
            with self._news:
                now = self._clock()
                if self._done or not self._pending or now >= until:
                    out = list(self._done)
                    self._done.clear()
                    self._pending -= len(out)
                    return out
                if not (self._calls and now >= self._look_at):
                    due = min(until, self._look_at) if self._calls else until
                    self._news.wait(max(due - now, 0.0))
                    continue
            self._look()

    def cancel(self) -> None:
        with self._news:
            off, calls = self._off(self._generation), self._calls
            self._generation += 1
            self._calls = []
            self._done.clear()
            waiting, self._pending = self._pending, 0
            if waiting or calls:
                self._orders.append(lambda: self._let_go(off, [call.handle for call in calls]))
                self._news.notify_all()

    def close(self) -> None:
        """End what can be ended; the rest finds out that nobody waits for it."""
        self.cancel()
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._thread.join(60.0)

    # -- the thread that talks to Lithops ---------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closed or self._orders)
                if not self._orders:
                    break
                order = self._orders.popleft()
            order()
        with suppress(Exception):  # what Lithops cannot end ends by itself
            self._pool.close()

    def _hand_in(self, launches: list[Launch], generation: int) -> None:
        """Invoke calls for launches, each with an equal share of them."""
        began = self._clock()
        shares = [share for i in range(self._workers) if (share := launches[i :: self._workers])]
        requests = [batch.request(self._where, self._off(generation), [_asked(x) for x in share]) for share in shares]
        for refusal in itertools.count():
            with self._news:
                if generation != self._generation:
                    return
            try:
                handles = self._pool.start(requests)
                break
            except InputError as error:  # no Lithops, or a configuration that it cannot use
                self._end(launches, generation, str(error), began, retry=False)
                return
            except Exception as error:  # noqa: BLE001  Lithops raises all kinds, mostly Exception itself
                if refusal == REFUSALS:
                    text = f"Lithops could not call its workers: {type(error).__name__}: {_line(str(error))}"
                    self._end(launches, generation, text, began)
                    return
                with self._news:
                    self._news.wait_for(
                        lambda: self._closed or generation != self._generation, self._pause * 2**refusal
                    )
        now = self._clock()
        calls = [
            _Call({(wire.stored_key(x.task), x.attempt): x for x in share}, handle, now)
            for share, handle in zip(shares, handles, strict=True)
        ]
        with self._news:
            if generation == self._generation:
                if not self._calls:
                    self._interval = self._soon
                    self._look_at = now + self._soon
                self._calls = [*self._calls, *calls]
                self._news.notify_all()
                return
        self._pool.drop(handles)

    def _let_go(self, off: str, handles: list[Any]) -> None:
        with suppress(ConflictError, StorageError):
            self._storage.put(off, b"")
        with suppress(Exception):  # what cannot be ended ends by itself
            self._pool.drop(handles)

    def _end(self, launches: list[Launch], generation: int, text: str, began: float, *, retry: bool = True) -> None:
        now = self._clock()
        with self._news:
            if generation == self._generation:
                self._done.extend(Outcome(x, None, text, retry, began, now, "lithops") for x in launches)
                self._news.notify_all()

    def _off(self, generation: int) -> str:
        return f"{self._root}/off/{self._token}-{generation}"

    # -- looking for what has come ----------------------------------------------------------------------------------

    def _look(self) -> None:
        """List the folders of what is under way, once each, and take what has come."""
        with self._news:
            calls, generation = self._calls, self._generation
        ended = [self._pool.ended(call.handle) for call in calls]  # before the list: what ended has left its results
        folders = sorted({key.rpartition("/")[0] for call in calls for key, _ in call.launches})
        try:
            found = {key for folder in folders for key in self._storage.list(folder)}
        except StorageError:
            found, ended = set(), [None] * len(calls)  # the next look may succeed
        now = self._clock()
        outcomes: list[Outcome] = []
        for call in calls:
            self._signs(call, found, now)
        for call, end in zip(calls, ended, strict=True):
            outcomes += self._of(call, found, end, now)
        with self._news:
            if generation != self._generation:
                return
            self._done.extend(outcomes)
            self._calls = [call for call in self._calls if call.launches]
            self._interval = self._soon if outcomes else min(1.5 * self._interval, _SELDOM)
            self._look_at = self._clock() + self._interval

    def _signs(self, call: _Call, found: set[str], now: float) -> None:
        """Note what is new of a call."""
        signs = {
            sign
            for key, attempt in call.launches
            for sign in (wire.start_key(key, attempt), key)
            if sign in found and sign not in call.seen
        }
        if signs:
            call.seen |= signs
            call.sign = self._life = now

    def _of(self, call: _Call, found: set[str], end: str | None, now: float) -> Iterator[Outcome]:
        """Outcomes of a call's launches, which are taken off it."""
        late = self._late(call, now)
        for (key, attempt), launch in list(call.launches.items()):
            if key in found:
                outcome = self._stored(launch, key, call.handed, now)
            elif (error := wire.error_key(key, attempt)) in found:
                outcome = self._said(launch, error, call.handed, now)
            elif end is not None or late is not None:
                outcome = Outcome(launch, None, end or late, True, call.handed, now, "lithops")
            else:
                continue
            del call.launches[key, attempt]
            yield outcome

    def _late(self, call: _Call, now: float) -> str | None:
        if call.sign is not None:
            if now - call.sign > self._longest:
                return f"a Lithops worker began and was not heard of for {self._longest:.0f} s"
        elif now - max(call.handed, self._life) > self._patience:
            return f"a Lithops worker did not begin within {self._patience:.0f} s"
        return None

    def _stored(self, launch: Launch, key: str, handed: float, now: float) -> Outcome:
        try:
            data = self._storage.get(key)
            report = wire.packed_report(data, key)
            return Outcome(launch, wire.unpack(data, key), None, True, handed, now, "lithops", report)
        except StorageError as error:
            return Outcome(launch, None, str(error), True, handed, now, "lithops")

    def _said(self, launch: Launch, key: str, handed: float, now: float) -> Outcome:
        try:
            said = json.loads(self._storage.get(key))
            text, retry = str(said["message"]), bool(said["retry"])
        except (KeyMissingError, ValueError, KeyError, TypeError):
            text, retry = "a Lithops worker failed without a word", True
        return Outcome(launch, None, text, retry, handed, now, "lithops")


def _asked(launch: Launch) -> Request:
    return Request(launch.task, wire.stored_key(launch.task), "always", launch.attempt, marked=True)


class LithopsPool:
    """Calls through a `lithops.FunctionExecutor`.

    Parameters
    ----------
    config : Lithops' configuration; default: the one that Lithops finds by itself (LITHOPS_CONFIG_FILE,
        .lithops_config, ~/.lithops/config), and without one its localhost, version 1.
    allow_code : lets users' functions run on workers on this machine; elsewhere the deployment says so itself.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, *, allow_code: bool = False) -> None:
        check_installed()
        from lithops.config import load_config

        try:
            self.config = completed(config or load_config(log=False))
        except Exception as error:  # whatever a file that is no configuration leads to
            raise InputError(f"Lithops' configuration cannot be read: {_line(str(error))}") from error
        self._allow_code = allow_code
        self._executor: Any = None

    @property
    def workers(self) -> int:
        """Calls worth making at once."""
        return default_workers() if is_local(self.config) else WORKERS

    def start(self, requests: Sequence[str]) -> list[Any]:
        if self._executor is None:
            self._executor = self._open()
        here = self._allow_code and is_local(self.config)
        return list(
            self._executor.map(
                batch.call,
                [(request,) for request in requests],
                extra_env={"OVERCAST_ALLOW_CODE": "1"} if here else None,
                include_modules=None,  # workers have Overcast installed
            )
        )

    def ended(self, handle: Any) -> str | None:
        if not (handle.ready or handle.success or handle.done):
            return None
        return f"a Lithops worker ended without a result: {last_words(getattr(handle, '_call_status', None))}"

    def drop(self, handles: Sequence[Any]) -> None:
        running = [handle for handle in handles if not (handle.ready or handle.success or handle.done)]
        if running:
            self._executor.job_monitor.remove(running)
            keys = {handle.job_key for handle in running}
            self._executor.compute_handler.clear(keys, exception=InterruptedError("cancelled"))

    def close(self) -> None:
        if self._executor is not None:
            self._executor.__exit__(None, None, None)
            if self._executor.data_cleaner:
                self._executor.clean(clean_cloudobjects=False, clean_fn=True, force=True)

    def _open(self) -> Any:
        import lithops

        try:
            return lithops.FunctionExecutor(config=self.config, log_level=None)
        except Exception as error:
            said = _line(f"{type(error).__name__}: {error}")
            raise InputError(f"Lithops cannot start with its configuration: {said}; try `lithops hello`") from error


def check_installed() -> None:
    """InputError where Lithops is not."""
    if importlib.util.find_spec("lithops") is None:
        raise InputError('executor "lithops" needs Lithops: pip install "overcast[lithops]"')


def is_local(config: Mapping[str, Any]) -> bool:
    """Whether a configuration of Lithops means this machine."""
    general = config.get("lithops") or {}
    return (general.get("backend") or general.get("mode") or "localhost") == "localhost"


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with what localhost lacks: this interpreter, and version 1 unless another is named."""
    out = {key: dict(value) if isinstance(value, Mapping) else value for key, value in config.items()}
    if is_local(out):
        out["localhost"] = {"version": 1, "runtime": sys.executable} | (out.get("localhost") or {})
        out["lithops"] = {"monitoring_interval": 0.5} | (out.get("lithops") or {})
    return out


def last_words(status: Any) -> str:
    """Kind and text of the exception in a call's status, read off its pickle without unpickling it."""
    try:
        pickled = ast.literal_eval(status["exc_info"])
        words = [str(arg) for op, arg, _ in pickletools.genops(pickled) if "UNICODE" in op.name]
        _, kind, *rest = words
    except (KeyError, TypeError, ValueError, SyntaxError, MemoryError, RecursionError):
        return "it gave no reason"
    plumbing = ("tblib", "unpickle_exception", "HANDLER", "__dict__", "args", "exc_value")
    text = next((word for word in rest if not word.startswith(plumbing)), "")
    return _line(f"{kind}: {text}")


def _line(text: str) -> str:
    return " ".join(text.split())[:500]


__all__ = ["LithopsExecutor", "LithopsPool", "Pool", "check_installed", "completed", "is_local", "last_words"]
