"""The executor that a job's spec names, by one word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from coordinator.errors import UnknownNameError
from coordinator.executors.base import Executor
from coordinator.executors.local import LocalExecutor
from coordinator.storage import MemoryStorage, Storage
from coordinator.tasks import Worker

EXECUTORS: Final = ("local", "lithops")


@dataclass(frozen=True)
class Place:
    """Where tasks of a job run.

    Attributes
    ----------
    scratch : storage of a step's small inputs. root : key prefix of what a step stores in it.
    """

    executor: Executor
    scratch: Storage
    root: str = ""


def check_executor(word: str, storage: Storage) -> None:
    """InputError for a name that is none, and for an executor that is not to be had here or for this storage."""
    if word not in EXECUTORS:
        raise UnknownNameError("executor", word, EXECUTORS)
    if word == "lithops":
        from coordinator.cloud.batch import describe
        from coordinator.cloud.lithops import check_installed

        check_installed()
        describe(storage)


@contextmanager
def open_place(
    word: str, storage: Storage, job: str, workers: int | None, memo: int, *, allow_code: bool = False
) -> Iterator[Place]:
    """The executor of that name, over the job's storage; what it stored for itself goes if all went well.

    `memo` : bytes that local workers may keep of what they derive. Raises InputError where it cannot be used.
    """
    check_executor(word, storage)
    if word == "local":
        scratch = MemoryStorage()
        with LocalExecutor(Worker(storage, scratch, memo, allow_code=allow_code), workers) as local:
            yield Place(local, scratch)
    else:
        from coordinator.cloud.lithops import LithopsPool
        from coordinator.executors.lithops import LithopsExecutor

        pool = LithopsPool(allow_code=allow_code)
        root = f"jobs/{job}/scratch"
        with LithopsExecutor(pool, storage, root, workers=workers or pool.workers) as lithops:
            yield Place(lithops, storage, f"{root}/")
        storage.delete(root)
