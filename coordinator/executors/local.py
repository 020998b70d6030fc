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

from coordinator.errors import InputError, OvercastError
from coordinator.executors.polled import Polled
from coordinator.phases import Launch, Outcome
from coordinator.tasks import Worker


def default_workers() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


class LocalExecutor(Polled):
    """`workers` threads in all, the polling one included. Use as a context manager: leaving it ends the threads."""

    def __init__(self, worker: Worker, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise InputError(f"workers must be >= 1, not {workers}")
        super().__init__()
        self._worker = worker
        self._queue: deque[tuple[int, Launch]] = deque()
        count = default_workers() if workers is None else workers
        self._threads = [
            threading.Thread(target=self._loop, name=f"overcast-{i}", daemon=True) for i in range(1, count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, launches: Collection[Launch]) -> None:
        with self._lock:
            self._queue.extend((self._generation, launch) for launch in launches)
            self._pending += len(launches)
            if len(self._queue) > 1:
                self._work.notify_all()

    def poll(self, timeout: float) -> list[Outcome]:
        """As for every executor; a task that waits is run here first, however long it takes."""
        with self._lock:
            item = self._queue.popleft() if self._queue else None
        if item is not None:
            self._execute(*item)
        return super().poll(timeout)

    def cancel(self) -> None:
        with self._lock:
            super().cancel()
            self._queue.clear()

    def close(self) -> None:
        """Wait for what runs, drop what waits, end the threads."""
        super().close()
        for thread in self._threads:
            thread.join()

    def _loop(self) -> None:
        while True:
            with self._lock:
                self._work.wait_for(lambda: self._closed or bool(self._queue))
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
        with self._lock:
            if generation == self._generation:
                self._done.append(outcome)
                self._news.notify()
