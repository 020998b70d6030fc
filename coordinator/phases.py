"""Phases and their straggler policy, as a pure state machine: outcomes and times go in, tasks to launch come out.

A failed task is an erasure: it is launched `max_attempts` times at most, then counted lost, and the phase fails only
when its code cannot decode without it. Stragglers, time-outs and crashes take this one path; an attempt that says that
the same call would fail again ends the phase at once. Nothing here reads a clock or does I/O; `now` is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from coordinator.tasks import Arrays, Report, Task
from sketches.codes import Code


@dataclass(frozen=True)
class Phase:
    """Tasks that may all run at once, and the code that says when enough are done."""

    name: str
    tasks: Sequence[Task]
    code: Code


@dataclass(frozen=True)
class Launch:
    """One attempt at task `index` of a phase."""

    phase: str
    index: int
    attempt: int
    task: Task


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended; times in seconds on the executor's clock."""

    launch: Launch
    result: Arrays | None = None
    error: str | None = None
    retry: bool = True  # False: the same call would fail again
    started: float = 0.0
    ended: float = 0.0
    worker: str = ""
    report: Report | None = None  # from workers that are far away


class StragglerPolicy(Protocol):
    """Which running tasks deserve a second copy."""

    def backups(self, running: dict[int, float], finished: Sequence[float]) -> list[int]:
        """Indices to duplicate: `running` maps task to seconds since launch, `finished` are durations in seconds."""
        ...


@dataclass(frozen=True)
class Speculate:
    """Duplicate a task once it has run `factor` times the `quantile` of finished ones (spec D3: 1.5 x p90).

    Not before `share` of the phase is done, and never within `least` seconds.
    """

    factor: float = 1.5
    quantile: float = 0.9
    share: float = 0.5
    least: float = 0.25

    def backups(self, running: dict[int, float], finished: Sequence[float]) -> list[int]:
        if not finished or len(finished) < self.share * (len(finished) + len(running)):
            return []
        limit = sorted(finished)[min(len(finished) - 1, int(self.quantile * len(finished)))]
        return [i for i, age in running.items() if age > max(self.least, self.factor * limit)]


@dataclass
class PhaseState:
    """One phase under way.

    Attributes
    ----------
    policy : None never duplicates.
    only : replay: wait for exactly these results. results, failures : by task, `failures` the last one of each.
    attempts : how often each task was launched, of `max_attempts`.
    fatal : an error that another attempt would meet again.
    """

    phase: Phase
    policy: StragglerPolicy | None
    max_attempts: int = 3
    only: frozenset[int] | None = None
    results: dict[int, Arrays] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    fatal: str | None = None
    # task without a result -> attempt -> when it was launched
    _running: dict[int, dict[int, float]] = field(default_factory=dict)
    _durations: list[float] = field(default_factory=list)

    def start(self, now: float) -> list[Launch]:
        """The first attempt of every task."""
        return [self._launch(i, now) for i in self._wanted]

    def record(self, outcome: Outcome, now: float) -> list[Launch]:
        """Take an outcome in; what to launch because of it. Late and duplicate results change nothing."""
        index = outcome.launch.index
        live = self._running.get(index, {})
        since = live.pop(outcome.launch.attempt, None)
        if since is None or index in self.results or self.done or self.fatal is not None:
            return []
        if outcome.result is not None:
            self.results[index] = outcome.result
            del self._running[index]
            self._durations.append(now - since)
            return []
        self.failures[index] = outcome.error or "it ended without a result"
        if not outcome.retry:
            self.fatal = self.failures[index]
            return []
        if live or self.attempts[index] >= self.max_attempts:
            return []
        return [self._launch(index, now)]

    def backups(self, now: float) -> list[Launch]:
        """Second copies of tasks that the policy calls stragglers."""
        if self.policy is None or self.done or self.fatal is not None:
            return []
        age = {i: now - since for i, live in self._running.items() if len(live) == 1 for since in live.values()}
        slow = self.policy.backups(age, self._durations)
        return [self._launch(i, now) for i in slow if self.attempts[i] < self.max_attempts]

    @property
    def done(self) -> bool:
        """The code can decode (when replaying: all recorded results are in)."""
        if self.only is not None:
            return self.only <= self.results.keys()
        return self.phase.code.decodable(self.results.keys())

    @property
    def stuck(self) -> str | None:
        """Why the phase can never decode, or None while it still may."""
        if self.fatal is not None:
            return self.fatal
        if self.done or any(self._running.values()):
            return None
        lost = [i for i in self._wanted if i not in self.results]
        why = next((self.failures[i] for i in lost if i in self.failures), "no result arrived")
        return f"phase {self.phase.name!r} lost {len(lost)} of {len(self.phase.tasks)} tasks: {why}"

    def decode(self) -> list[Arrays]:
        """The phase's data blocks; every result that arrived is used."""
        return self.phase.code.decode(self.results)

    @property
    def _wanted(self) -> Sequence[int]:
        return range(len(self.phase.tasks)) if self.only is None else sorted(self.only)

    def _launch(self, index: int, now: float) -> Launch:
        attempt = self.attempts.get(index, 0) + 1
        self.attempts[index] = attempt
        self._running.setdefault(index, {})[attempt] = now
        return Launch(self.phase.name, index, attempt, self.phase.tasks[index])
