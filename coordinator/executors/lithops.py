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

import itertools
import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from coordinator.cloud import batch, wire
from coordinator.cloud.lithops import WORKERS
from coordinator.cloud.wire import Request
from coordinator.errors import InputError, KeyMissingError, StorageError, one_line
from coordinator.executors.polled import Polled, listed
from coordinator.phases import Launch, Outcome
from coordinator.storage import FileStorage, Storage

REFUSALS: Final = 5  # times that Lithops may fail to invoke a batch


class Pool(Protocol):
    """Where calls run. `ended` is called by the thread that polls, the others by one of the executor's own."""

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


class LithopsExecutor(Polled):
    """Runs tasks on a pool. Use as a context manager: leaving it ends what can be ended.

    Parameters
    ----------
    pool : where calls run (`coordinator.cloud.lithops.LithopsPool`; tests have their own).
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
        if soon is None:  # a look at files costs nothing, one at a bucket a request for each folder
            soon = 0.02 if isinstance(storage, FileStorage) else 0.2
        super().__init__(soon, clock)
        self._pool, self._storage, self._where = pool, storage, batch.describe(storage)
        self._root, self._workers = root.rstrip("/"), workers
        self._patience, self._longest, self._pause = patience, longest, pause
        self._token = secrets.token_hex(4)
        self._orders: deque[Callable[[], None]] = deque()
        self._calls: list[_Call] = []
        self._life = float("-inf")  # the last sign from any call
        self._thread = threading.Thread(target=self._serve, name="overcast-lithops", daemon=True)
        self._thread.start()

    def submit(self, launches: Collection[Launch]) -> None:
        given = list(launches)
        with self._lock:
            generation = self._generation
            self._pending += len(given)
            self._orders.append(lambda: self._hand_in(given, generation))
            self._work.notify()

    def cancel(self) -> None:
        with self._lock:
            if self._pending or self._calls:
                off, handles = self._off(self._generation), [call.handle for call in self._calls]
                self._orders.append(lambda: self._let_go(off, handles))
                self._work.notify()
            self._calls = []
            super().cancel()

    def close(self) -> None:
        """End what can be ended; the rest finds out that nobody waits for it."""
        super().close()
        self._thread.join(60.0)

    # -- the thread that talks to Lithops ---------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._lock:
                self._work.wait_for(lambda: self._closed or self._orders)
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
            with self._lock:
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
                    text = f"Lithops could not call its workers: {type(error).__name__}: {one_line(error)}"
                    self._end(launches, generation, text, began)
                    return
                with self._lock:
                    self._work.wait_for(
                        lambda: self._closed or generation != self._generation, self._pause * 2**refusal
                    )
        now = self._clock()
        calls = [
            _Call({(wire.stored_key(x.task), x.attempt): x for x in share}, handle, now)
            for share, handle in zip(shares, handles, strict=True)
        ]
        with self._lock:
            if generation == self._generation:
                self._calls = [*self._calls, *calls]
                self._watch()
                return
        self._drop(handles)

    def _let_go(self, off: str, handles: list[Any]) -> None:
        with suppress(StorageError):
            self._storage.put(off, b"")
        self._drop(handles)

    def _drop(self, handles: list[Any]) -> None:
        with suppress(Exception):  # what cannot be ended ends by itself
            self._pool.drop(handles)

    def _end(self, launches: list[Launch], generation: int, text: str, began: float, *, retry: bool = True) -> None:
        now = self._clock()
        with self._lock:
            if generation == self._generation:
                self._done.extend(Outcome(x, None, text, retry, began, now, "lithops") for x in launches)
                self._news.notify()

    def _off(self, generation: int) -> str:
        return f"{self._root}/off/{self._token}-{generation}"

    # -- looking for what has come ----------------------------------------------------------------------------------

    def _look(self) -> None:
        """List the folders of what is under way, once each, and take what has come."""
        with self._lock:
            calls, generation = self._calls, self._generation
        ended = [self._pool.ended(call.handle) for call in calls]  # before the list: what ended has left its results
        try:
            found = listed(self._storage, (key for call in calls for key, _ in call.launches))
        except StorageError:
            found, ended = set(), [None] * len(calls)  # the next look may succeed
        now = self._clock()
        outcomes: list[Outcome] = []
        for call in calls:
            self._signs(call, found, now)
        for call, end in zip(calls, ended, strict=True):
            outcomes += self._of(call, found, end, now)
        with self._lock:
            if generation != self._generation:
                return
            self._calls = [call for call in self._calls if call.launches]
            self._looked(outcomes, left=bool(self._calls))

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
