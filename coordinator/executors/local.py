"""The local executor: threads of this process over memory-mapped or shared blocks.

Kernels spend their time in BLAS and SciPy, which release the interpreter lock. Each task runs with one BLAS thread
and the tasks fill the cores; the caller's own thread works too while it polls, so that a phase of one small task
costs no hand-over between threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Collection
from types import TracebackType

from coordinator.errors import InputError, OvercastError
from coordinator.phases import Launch, Outcome
from coordinator.tasks import Worker


def default_workers() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


class LocalExecutor:
    """`workers` threads in all, the polling one included. Use as a context manager: leaving it ends the threads."""

    def __init__(self, worker: Worker, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise InputError(f"workers must be >= 1, not {workers}")
        self._worker = worker
        self._queue: deque[tuple[int, Launch]] = deque()
        self._done: deque[Outcome] = deque()
        self._wake = threading.Condition()
        self._pending = 0
        self._generation = 0
        self._closed = False
        count = default_workers() if workers is None else workers
        self._threads = [
            threading.Thread(target=self._loop, name=f"overcast-{i}", daemon=True) for i in range(1, count)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def submit(self, launches: Collection[Launch]) -> None:
        with self._wake:
            self._queue.extend((self._generation, launch) for launch in launches)
            self._pending += len(launches)
            if len(self._queue) > 1:
                self._wake.notify_all()

    def poll(self, timeout: float) -> list[Outcome]:
        with self._wake:
            item = self._queue.popleft() if self._queue else None
        if item is not None:
            self._execute(*item)
        with self._wake:
            if not self._done and self._pending:
                self._wake.wait_for(lambda: bool(self._done), timeout)
            out = list(self._done)
            self._done.clear()
        return out

    def cancel(self) -> None:
        with self._wake:
            self._generation += 1
            self._queue.clear()
            self._done.clear()
            self._pending = 0

    def close(self) -> None:
        """Wait for what runs, drop what waits, end the threads."""
        self.cancel()
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def _loop(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or bool(self._queue))
                if self._closed:
                    return
                item = self._queue.popleft()
            self._execute(*item)

    def _execute(self, generation: int, launch: Launch) -> None:
        started = time.perf_counter()
        name = threading.current_thread().name
        worker = name.removeprefix("overcast-") if name.startswith("overcast-") else "0"
        try:
            result, error, retry = self._worker.run(launch.task), None, True
        except OvercastError as failure:
            result, error, retry = None, str(failure), False
        except Exception as failure:  # noqa: BLE001  any failure of a kernel is an erasure, told to the policy
            result, error, retry = None, f"{launch.task.kernel}: {type(failure).__name__}: {failure}", True
        outcome = Outcome(launch, result, error, retry, started, time.perf_counter(), worker)
        with self._wake:
            if generation != self._generation:
                return
            self._pending -= 1
            self._done.append(outcome)
            self._wake.notify_all()
