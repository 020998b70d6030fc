"""The one interface of a back end."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from coordinator.phases import Launch, Outcome


class Executor(Protocol):
    """Runs launches somewhere. An attempt that ends in any way yields one outcome; one that vanishes yields none."""

    def submit(self, launches: Collection[Launch]) -> None:
        """Take launches; returns at once."""

    def poll(self, timeout: float) -> Collection[Outcome]:
        """Outcomes since the last call; waits at most `timeout` seconds for the first."""
        ...

    def cancel(self) -> None:
        """Forget what has not started; the outcomes of what has are dropped."""
