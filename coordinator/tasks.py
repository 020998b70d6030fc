"""Tasks: one pure function call by name from an allow-list, and the worker's side of running it.

A kernel is a function registered by `@kernel`; a task names it and travels as JSON: names, keys, seeds, never data and
never code. Its result is a tuple of arrays, a function of the task alone: the memo only spares work that would give
the same bits again.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.arrays import NamedArrays
from coordinator.data.blocks import Block
from coordinator.errors import ConflictError, InputError, UnknownNameError
from coordinator.storage import Storage

Arrays = tuple[NDArray[Any], ...]
Kernel = Callable[..., Arrays]

KERNELS: Final[dict[str, Kernel]] = {}


class _Register(Protocol):
    def __call__(self, fn: Kernel, /) -> Kernel: ...


def kernel(name: str) -> _Register:
    """Allow tasks to call the decorated function, `fn(work, **params) -> Arrays`, by `name`."""

    def register(fn: Kernel) -> Kernel:
        if name in KERNELS and KERNELS[name].__module__ != fn.__module__:
            raise ValueError(f"two kernels are named {name!r}")
        KERNELS[name] = fn
        return fn

    return register


@dataclass(frozen=True)
class Task:
    """One kernel call.

    Attributes
    ----------
    kernel : name in KERNELS.
    output : key under which a result that is stored is put, once; also the task's identity.
    blocks : keys of the data blocks it reads, in order.
    n_features : columns of those blocks.
    inputs : name -> key of small named arrays.
    params : JSON values handed to the kernel by name.
    """

    kernel: str
    output: str
    blocks: tuple[str, ...] = ()
    n_features: int = 0
    inputs: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Task:
        """Read a task back; InputError for anything that is not one, UnknownNameError for a kernel not allowed."""
        try:
            raw = json.loads(text)
            if not _SHAPE.keys() == raw.keys() or not all(type(raw[name]) is kind for name, kind in _SHAPE.items()):
                raise InputError("not a task: fields are missing, unknown or of another type")
            if not all(isinstance(key, str) for key in [*raw["blocks"], *raw["inputs"].values()]):
                raise InputError("not a task: keys of blocks and inputs must be text")
            task = cls(**(raw | {"blocks": tuple(raw["blocks"])}))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"not a task: {type(error).__name__} {error}") from None
        if task.kernel not in KERNELS:
            raise UnknownNameError("kernel", task.kernel, KERNELS)
        return task


_SHAPE: Final = {"kernel": str, "output": str, "blocks": list, "n_features": int, "inputs": dict, "params": dict}


@dataclass(frozen=True)
class Report:
    """What one attempt took on a worker that is far away.

    Attributes
    ----------
    cold : whether it was the first call of its environment, which took `init` seconds to get ready.
    hits, misses : data blocks found in the environment, and fetched.
    get, compute, put, seconds : seconds of fetching blocks and inputs, computing, storing, and in all.
    memory : highest use of the environment so far, bytes; `limit` is what it has, MB.
    bytes_in, bytes_out, reads, writes : of object storage; reads are GET and HEAD, writes PUT and LIST.
    cost : dollars, of compute and requests.
    """

    cold: bool = False
    hits: int = 0
    misses: int = 0
    init: float = 0.0
    get: float = 0.0
    compute: float = 0.0
    put: float = 0.0
    seconds: float = 0.0
    memory: int = 0
    limit: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    reads: int = 0
    writes: int = 0
    cost: float = 0.0

    @property
    def starting(self) -> float:
        """Dollars of `cost` that the start of the environment took, by its share of the time."""
        return self.cost * self.init / (self.init + self.seconds) if self.init > 0 else 0.0


class Memo:
    """Values a worker may keep between tasks, least recently used first out; bounded in bytes; thread-safe."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self._limit = limit
        self._size = 0
        self._items: OrderedDict[tuple[str, ...], Arrays] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, *key: str) -> Arrays | None:
        with self._lock:
            found = self._items.get(key)
            if found is not None:
                self._items.move_to_end(key)
            return found

    def put(self, *key: str, value: Arrays) -> None:
        size = sum(a.nbytes for a in value)
        if size > self._limit:
            return
        with self._lock:
            old = self._items.pop(key, None)
            self._size += size - (sum(a.nbytes for a in old) if old else 0)
            self._items[key] = value
            while self._size > self._limit:
                _, gone = self._items.popitem(last=False)
                self._size -= sum(a.nbytes for a in gone)


class Worker:
    """What an environment that runs tasks keeps: where to read, its blocks, and a memo.

    `data` holds blocks and stored results, `scratch` the small inputs of a step (the same storage on a cloud).
    `allow_code` says whether users' functions may run here; so does the variable OVERCAST_ALLOW_CODE.
    """

    def __init__(
        self, data: Storage, scratch: Storage | None = None, memo_bytes: int = 1 << 30, *, allow_code: bool = False
    ) -> None:
        self.data = data
        self.allow_code = allow_code or os.environ.get("OVERCAST_ALLOW_CODE", "") in {"1", "true", "yes"}
        self.loaded: dict[str, Any] = {}  # job -> what is kept of its function
        self.scratch = scratch if scratch is not None else data
        self.memo = Memo(memo_bytes)
        self._blocks: dict[str, Block] = {}

    def block(self, key: str, n_features: int) -> Block:
        """The block, opened once: memory-mapped or shared, so that keeping it costs no memory of its own."""
        found = self._blocks.get(key)
        if found is None:
            found = Block.from_arrays(self.data.get_arrays(key), n_features, key)
            self._blocks[key] = found
        return found

    def input(self, key: str) -> NDArray[Any]:
        """A small array that a step has put."""
        return self.scratch.get_arrays(key)["array"]

    def discard(self, prefix: str) -> None:
        """Delete what tasks have stored for each other and need no more."""
        self.data.delete(prefix)

    def run(self, task: Task) -> Arrays:
        """Call the task's kernel."""
        with np.errstate(over="ignore", invalid="ignore"):  # an overflowing objective is inf: a value, not an error
            return KERNELS[task.kernel](Work(self, task), **task.params)


@dataclass(frozen=True)
class Work:
    """A kernel's view of its task."""

    worker: Worker
    task: Task

    def blocks(self) -> Iterator[tuple[str, Block]]:
        """Key and content of each block, in order."""
        for key in self.task.blocks:
            yield key, self.worker.block(key, self.task.n_features)

    def key(self, name: str) -> str:
        """The key of an input: it names the content, so values derived from it may be kept under it."""
        return self.task.inputs[name]

    def input(self, name: str) -> NDArray[Any]:
        """A single-array input."""
        return self.worker.input(self.task.inputs[name])

    def keep(self, array: NDArray[Any]) -> None:
        """Store a result of the task in scratch under its output key, for tasks that name it as an input."""
        put_once(self.worker.scratch, self.task.output, {"array": array})

    def kept(self) -> bool:
        """Whether an earlier run of this task has stored its result."""
        return self.worker.scratch.exists(self.task.output)

    @property
    def memo(self) -> Memo:
        return self.worker.memo


def put_once(storage: Storage, key: str, arrays: NamedArrays) -> None:
    """Create an object that is a function of its key: if it is there already, a copy of the task was faster."""
    with suppress(ConflictError):
        storage.put_arrays(key, arrays)


def total(results: list[Arrays]) -> Arrays:
    """Entrywise sum in task order, so that rounding does not depend on who came first."""
    out = [np.array(a, dtype=np.float64) for a in results[0]]
    for result in results[1:]:
        for acc, a in zip(out, result, strict=True):
            acc += a
    return tuple(out)
