"""The runtime: the one loop with a clock. It runs phases to decodability and keeps their records."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from coordinator.errors import CancelledError, PhaseError
from coordinator.executors.base import Executor
from coordinator.executors.local import default_workers
from coordinator.phases import Outcome, Phase, PhaseState, StragglerPolicy
from coordinator.storage import Storage
from coordinator.tasks import Arrays, Report, put_once

FEW: Final = 1000  # columns up to which more BLAS threads are not worth their risk (see `Runtime.linalg_threads`)


@dataclass(frozen=True)
class TaskRecord:
    """One attempt: seconds since `Runtime.began`, worker and fate ("used", "spare" or the error)."""

    phase: str
    index: int
    attempt: int
    started: float
    ended: float
    worker: str
    fate: str
    report: Report | None = None


class BlasThreads:
    """BLAS threads of this process, shared by all runtimes that are in use at once: the newest wish still held holds.

    The controller is made once: finding the loaded libraries takes milliseconds. Two limiters of threadpoolctl that
    overlap would each restore what they had found, and since its version 3.8 OpenBLAS heeds the first thread only that
    sets a limit, so wishes are kept here and the thread that changes one takes control.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._controller: ThreadpoolController | None = None
        self._before: list[int] = []
        self._wishes: list[tuple[object, int]] = []

    @contextmanager
    def limit(self, threads: int) -> Iterator[None]:
        """That many threads, until this or a newer wish ends; without wishes, as many as there were at first."""
        wish = (object(), threads)
        with self._lock:
            if self._controller is None:
                self._controller = ThreadpoolController().select(user_api="blas")
            if not self._wishes:
                self._before = [library.num_threads for library in self._controller.lib_controllers]
            self._wishes.append(wish)
            self._set()
        try:
            yield
        finally:
            with self._lock:
                self._wishes.remove(wish)
                self._set()

    def _set(self) -> None:
        assert self._controller is not None
        for library, before in zip(self._controller.lib_controllers, self._before, strict=True):
            if take := getattr(library, "clear_controlling_thread", None):
                take(force=True)
            library.set_num_threads(self._wishes[-1][1] if self._wishes else before)


BLAS: Final = BlasThreads()


@dataclass
class Runtime:
    """Runs phases on an executor.

    Attributes
    ----------
    scratch : where small inputs of a step go.
    prefix : key prefix of this step; `put` and task outputs lie under it.
    replay : phase name -> results to use, to repeat a run bit for bit.
    arrivals : phase name -> results that were used, for phases that decoded without some.
    stopped : asked between results; a reason ends the run with CancelledError.
    derived : folder for objects that are functions of the data set ("": beside the data, for all jobs on it).
    tidy : whether `release` deletes; a job in the cloud deletes many at once instead.
    linalg_threads : BLAS threads of the coordinator's own algebra; None is all cores. Measured, 2 cores: for 650
        columns a second thread saves a third on an idle machine; on a busy one, 124 columns take thirty times as long.
    """

    executor: Executor
    scratch: Storage
    policy: StragglerPolicy | None = None
    max_attempts: int = 3
    prefix: str = "step"
    replay: Mapping[str, Sequence[int]] = field(default_factory=dict)
    stopped: Callable[[], str | None] = lambda: None
    linalg_threads: int | None = None
    derived: str = ""
    tidy: bool = True
    records: list[TaskRecord] = field(default_factory=list)
    arrivals: dict[str, list[int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict)  # recomputable values of a solver; never checkpointed
    began: float = field(default_factory=time.perf_counter)
    _held: dict[str, None] = field(default_factory=dict)  # in the order of their last use

    def put(self, array: NDArray[Any]) -> str:
        """Store a small input; its key names its content, so that a step that is run again finds what it may use."""
        array = np.array(array)  # what the caller does with it later changes nothing
        content = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=12)
        content.update(array.reshape(-1).view(np.uint8).data)
        key = f"{self.prefix}/in-{content.hexdigest()}"
        if key in self._held:
            del self._held[key]
        else:
            put_once(self.scratch, key, {"array": array})
        self._held[key] = None
        return key

    def release(self, keep: int = 64) -> None:
        """Drop all but the newest `keep` >= 1 small inputs."""
        for key in list(self._held)[:-keep]:
            if self.tidy:
                self.scratch.delete(key)
            del self._held[key]

    def run(self, *phases: Phase) -> list[list[Arrays]]:
        """Run phases together until each decodes; their decoded blocks, in order.

        Raises PhaseError when one can no longer decode, CancelledError when `stopped` gives a reason.
        """
        began = time.perf_counter()
        states: dict[str, PhaseState] = {}
        for phase in phases:
            only = frozenset(self.replay[phase.name]) if phase.name in self.replay else None
            states[phase.name] = PhaseState(phase, self.policy, self.max_attempts, only)
        try:
            self._loop(states)
        except BaseException:
            self.executor.cancel()
            raise
        spent = time.perf_counter() - began
        for name, state in states.items():
            if len(state.results) < len(state.phase.tasks):  # only what chance decided need be known to repeat it
                self.arrivals[name] = sorted(state.results)
            kind = name.rsplit("#", 1)[0]
            self.seconds[kind] = self.seconds.get(kind, 0.0) + spent / len(states)
        return [state.decode() for state in states.values()]

    def _loop(self, states: dict[str, PhaseState]) -> None:
        for state in states.values():
            self.executor.submit(state.start(time.perf_counter()))
        while not all(state.done for state in states.values()):
            for outcome in self.executor.poll(0.05):
                now = time.perf_counter()
                state = states[outcome.launch.phase]
                self._note(outcome, state)
                if again := state.record(outcome, now):
                    self.executor.submit(again)
            if (reason := self.stopped()) is not None:
                raise CancelledError(reason)
            now = time.perf_counter()
            for state in states.values():
                if (why := state.stuck) is not None:
                    raise PhaseError(why)
                if backups := state.backups(now):
                    self.executor.submit(backups)
        if any(len(state.results) < sum(state.attempts.values()) for state in states.values()):
            self.executor.cancel()  # spare copies that may be under way are of no use any more

    def _note(self, outcome: Outcome, state: PhaseState) -> None:
        spare = outcome.launch.index in state.results or state.done
        fate = outcome.error or ("spare" if spare else "used")
        launch = outcome.launch
        start, end = outcome.started - self.began, outcome.ended - self.began
        self.records.append(
            TaskRecord(launch.phase, launch.index, launch.attempt, start, end, outcome.worker, fate, outcome.report)
        )

    @contextmanager
    def linalg(self, columns: int | None = None) -> Iterator[None]:
        """More BLAS threads for the coordinator's own dense algebra, unless its matrices are known to have few columns.

        Tasks run with one each.
        """
        began = time.perf_counter()
        few = columns is not None and columns < FEW
        with BLAS.limit(1 if few else self.linalg_threads or default_workers()):
            yield
        self.seconds["linear algebra"] = self.seconds.get("linear algebra", 0.0) + time.perf_counter() - began

    @contextmanager
    def session(self) -> Iterator[None]:
        """One BLAS thread a task, for as long as the runtime is in use."""
        with BLAS.limit(1):
            yield
