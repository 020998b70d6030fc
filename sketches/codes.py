"""Erasure codes: which results of a phase are enough, and what they decode to.

A task returns a tuple of arrays. A code says when the tasks that are done suffice (`Code.decodable`), and turns their
results into the phase's blocks (`Code.decode`). A straggler, a crash and a throttle are one thing here: an erasure.

`Quorum` and `GroupQuorum` drop results, which only exchangeable ones (independent sketches, independent estimates)
survive without bias. The other codes decode exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrays", "Code", "GroupQuorum", "Quorum", "Replication", "Uncoded"]

Arrays: TypeAlias = tuple[NDArray[Any], ...]


class Code(Protocol):
    """When enough of ``n_tasks`` results have arrived, and what they mean."""

    @property
    def n_tasks(self) -> int:
        """Tasks, numbered from 0."""
        ...

    @property
    def exchangeable(self) -> bool:
        """Whether decoding may leave results out, which only exchangeable results survive without bias."""
        ...

    def decodable(self, done: Set[int]) -> bool:
        """Whether the results of the tasks in ``done`` are enough. Monotone: more tasks done never undo it."""
        ...

    def decode(self, results: Mapping[int, Arrays]) -> list[Arrays]:
        """Return the phase's blocks; ValueError if the results are not decodable or one has an unknown task id."""
        ...


def check_count(owner: object, name: str, least: int = 1) -> None:
    """Raise ValueError unless the named field of ``owner`` is an integer >= ``least``."""
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{type(owner).__name__} {name} must be an integer >= {least}, got {value!r}")


def check_results(code: Code, results: Mapping[int, Arrays]) -> None:
    """Raise ValueError on a task id outside the code, or if the results are not decodable."""
    unknown = [task for task in results if not 0 <= task < code.n_tasks]
    if unknown:
        raise ValueError(f"{type(code).__name__} has tasks 0 to {code.n_tasks - 1}, got a result for task {unknown[0]}")
    if not code.decodable(results.keys()):
        raise ValueError(f"{type(code).__name__} cannot decode {len(results)} of {code.n_tasks} results")


@dataclass(frozen=True)
class Uncoded:
    """Every result is needed; they decode to themselves, in task order.

    Parameters
    ----------
    n_tasks
        Tasks, >= 1.
    """

    n_tasks: int

    def __post_init__(self) -> None:
        check_count(self, "n_tasks")

    @property
    def exchangeable(self) -> bool:
        """False."""
        return False

    def decodable(self, done: Set[int]) -> bool:
        """Whether all tasks are done."""
        return len(done) >= self.n_tasks and all(task in done for task in range(self.n_tasks))

    def decode(self, results: Mapping[int, Arrays]) -> list[Arrays]:
        """Return the results in task order; ValueError unless all are there."""
        check_results(self, results)
        return [results[task] for task in range(self.n_tasks)]


@dataclass(frozen=True)
class Quorum:
    """Any ``k`` of ``n_tasks`` exchangeable results. All that arrived are used, not k of them.

    Parameters
    ----------
    k
        Results that are enough, 1 <= k <= n_tasks.
    n_tasks
        Tasks.
    """

    k: int
    n_tasks: int

    def __post_init__(self) -> None:
        check_count(self, "k")
        check_count(self, "n_tasks")
        if self.k > self.n_tasks:
            raise ValueError(f"Quorum needs k <= n_tasks, got k = {self.k} of {self.n_tasks}")

    @property
    def exchangeable(self) -> bool:
        """True."""
        return True

    def decodable(self, done: Set[int]) -> bool:
        """Whether at least k tasks are done."""
        return sum(task in done for task in range(self.n_tasks)) >= self.k

    def decode(self, results: Mapping[int, Arrays]) -> list[Arrays]:
        """Return all results that arrived, in task order; ValueError on fewer than k."""
        check_results(self, results)
        return [results[task] for task in sorted(results)]


@dataclass(frozen=True)
class GroupQuorum:
    """Any ``k`` complete groups of exchangeable groups of tasks.

    For OverSketch computed in tiles: a group is all tiles of one sketch index, which counts only when all of them are
    done, so that what is used is always a Gram matrix.

    Parameters
    ----------
    k
        Complete groups that are enough, 1 <= k <= number of groups.
    groups
        Task ids of each group. The groups are non-empty and together hold 0 to n_tasks - 1, each id once.
    """

    k: int
    groups: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        check_count(self, "k")
        if self.k > len(self.groups):
            raise ValueError(f"GroupQuorum needs k <= number of groups, got k = {self.k} of {len(self.groups)}")
        ids = sorted(task for group in self.groups for task in group)
        if not all(self.groups) or ids != list(range(len(ids))):
            raise ValueError("GroupQuorum groups must be non-empty and hold every task id from 0 exactly once")

    @property
    def n_tasks(self) -> int:
        """Tasks in all groups."""
        return sum(len(group) for group in self.groups)

    @property
    def exchangeable(self) -> bool:
        """True."""
        return True

    def complete(self, done: Set[int]) -> tuple[int, ...]:
        """Return the indices of the groups whose tasks are all done, in order."""
        return tuple(g for g, group in enumerate(self.groups) if all(task in done for task in group))

    def decodable(self, done: Set[int]) -> bool:
        """Whether at least k groups are complete."""
        return len(self.complete(done)) >= self.k

    def decode(self, results: Mapping[int, Arrays]) -> list[Arrays]:
        """Return the results of all complete groups, group after group, each in its own task order.

        Results of incomplete groups are left out. `complete` of the same task ids says which groups these are.
        ValueError on fewer than k complete groups.
        """
        check_results(self, results)
        return [results[task] for g in self.complete(results.keys()) for task in self.groups[g]]


@dataclass(frozen=True)
class Replication:
    """Each block computed ``copies`` times, any copy will do. Task ``copy * n_blocks + block`` computes ``block``.

    Parameters
    ----------
    n_blocks
        Blocks, >= 1.
    copies
        Tasks per block, >= 1.
    """

    n_blocks: int
    copies: int

    def __post_init__(self) -> None:
        check_count(self, "n_blocks")
        check_count(self, "copies")

    @property
    def n_tasks(self) -> int:
        """Tasks, n_blocks x copies."""
        return self.n_blocks * self.copies

    @property
    def exchangeable(self) -> bool:
        """False: every block is needed, only its copies are alike."""
        return False

    def decodable(self, done: Set[int]) -> bool:
        """Whether every block has a copy that is done."""
        return all(self._first(block, done) is not None for block in range(self.n_blocks))

    def decode(self, results: Mapping[int, Arrays]) -> list[Arrays]:
        """Return the first copy of each block, in block order; ValueError if a block has none."""
        check_results(self, results)
        firsts = (self._first(block, results.keys()) for block in range(self.n_blocks))
        return [results[task] for task in firsts if task is not None]

    def _first(self, block: int, done: Set[int]) -> int | None:
        return next((task for task in range(block, self.n_tasks, self.n_blocks) if task in done), None)
