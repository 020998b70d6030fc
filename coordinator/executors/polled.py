"""What executors have in common: outcomes on their way to the thread that polls."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Final, Self

from coordinator.phases import Outcome
from coordinator.storage import Storage

SELDOM: Final = 5.0  # seconds between looks at storage, at most


class Polled:
    """An executor as the polling thread sees it. Use as a context manager: leaving it closes the executor.

    Its threads wait for `_work`, add to `_done` and notify `_news`; all of it is guarded by `_lock`. Launches belong to
    a generation, which `cancel` ends: what comes of earlier ones is dropped. Results that lie in storage are looked for
    by `_look`, which `poll` calls from `_watch` on, at intervals that grow while nothing comes, until `_looked` says
    that none are left.

    Parameters
    ----------
    soon : seconds to the first look, and between looks when results come.
    clock : for tests.
    """

    def __init__(self, soon: float = 0.0, clock: Callable[[], float] = time.perf_counter) -> None:
        self._soon, self._clock = soon, clock
        self._lock = threading.RLock()
        self._work, self._news = threading.Condition(self._lock), threading.Condition(self._lock)
        self._done: list[Outcome] = []
        self._pending = 0  # launches whose outcome was not polled yet
        self._generation = 0
        self._closed = False
        self._look_at = math.inf
        self._interval = soon

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def poll(self, timeout: float) -> list[Outcome]:
        """Outcomes since the last call; waits at most `timeout` seconds for the first, and not for nothing."""
        until = self._clock() + timeout
        while True:
            with self._lock:
                now = self._clock()
                if now < self._look_at:
                    if self._done or not self._pending or now >= until:
                        out, self._done = self._done, []
                        self._pending -= len(out)
                        return out
                    self._rest(min(until, self._look_at) - now)
                    continue
            self._look()

    def cancel(self) -> None:
        """Forget what has not started; the outcomes of what has are dropped."""
        with self._lock:
            self._generation += 1
            self._done.clear()
            self._pending = 0
            self._look_at = math.inf

    def close(self) -> None:
        """Let go of everything; threads end when what they do does."""
        self.cancel()
        with self._lock:
            self._closed = True
            self._work.notify_all()

    def _rest(self, seconds: float) -> None:
        """Wait for news, holding the lock before and after."""
        self._news.wait(seconds)

    def _look(self) -> None:
        """Look for results, without the lock; only executors that call `_watch` have any to look for."""

    def _watch(self) -> None:
        """There are results to look for; the lock is held."""
        if self._look_at == math.inf:
            self._interval = self._soon
            self._look_at = self._clock() + self._soon
            self._news.notify()  # who waits may be waiting for longer

    def _looked(self, outcomes: Sequence[Outcome], *, left: bool) -> None:
        """Take what a look has found; `left`: there is more to look for. The lock is held."""
        self._done += outcomes
        self._interval = self._soon if outcomes else min(1.5 * self._interval, SELDOM)
        self._look_at = self._clock() + self._interval if left else math.inf


def listed(storage: Storage, keys: Iterable[str]) -> set[str]:
    """All keys in the folders of `keys`, by one LIST of each folder."""
    folders = sorted({key.rpartition("/")[0] for key in keys})
    return {key for folder in folders for key in storage.list(folder)}
