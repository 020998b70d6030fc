"""Jobs of kind "map": a function of the user's over items, by the same phases, retries and executors as solves.

jobs/ID/code                 the function, by cloudpickle
jobs/ID/items/000000, ...    items, a megabyte or so an object; index.json has the hash of each
jobs/ID/outputs/000000, ...  results of one wave of items

All are written once. The spec has the SHA-256 of the function and of the index, and workers check both, and the hash of
every object that the index names, before they unpickle anything (`coordinator.kernels.calls`). Results are plain data
and arrays; pickled ones come back only where the spec asks for them, and are unpickled only by readers that say so.

A wave is one phase: its results are stored when all are there, so that a job that is resumed goes on with the next.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from coordinator import arrays as codec
from coordinator import values
from coordinator.errors import (
    CancelledError,
    CodeRefusedError,
    ConflictError,
    InputError,
    ItemError,
    JobError,
    OvercastError,
    PhaseError,
)
from coordinator.jobs import JobSpec, JobStore
from coordinator.kernels import calls
from coordinator.phases import Phase
from coordinator.runtime import Runtime
from coordinator.storage import Storage
from coordinator.tasks import Task, put_once
from sketches import Uncoded

KIND: Final = "map"
WAVE: Final = 1000  # items of one phase
SHARD: Final = 1 << 20  # bytes of items in one object, unless one item is larger
MOST: Final = 10_000_000  # items of one job
Watcher = Callable[[Mapping[str, Any]], None]


def is_map(spec: JobSpec) -> bool:
    """Whether the job maps a function over items."""
    return spec.problem.get("kind") == KIND


def create_map(
    store: JobStore, spec: JobSpec, fn: Callable[[Any], Any], items: Iterable[Any], *, pickled: bool, attempts: int
) -> JobSpec:
    """Store a job that maps `fn` over `items`; `spec` says the rest. `pickled`: results may be any objects.

    Raises InputError for what cannot be used or cannot travel; nothing is stored then.
    """
    if not callable(fn):
        raise InputError(f"map takes a function and items, not a {type(fn).__name__}")
    if not 1 <= attempts <= 100:
        raise InputError(f"retries must be from 0 to 99, not {attempts - 1}")
    store.check_id(spec.id)
    code = values.pickle(fn)
    try:
        store.storage.put(store.key(spec.id, "code"), code)
        n, index = _put_items(store, spec.id, items)
        store.storage.put(store.key(spec.id, "items/index.json"), index)
        problem = {
            "kind": KIND,
            "function": str(getattr(fn, "__qualname__", type(fn).__name__)),
            "n": n,
            "code": hashlib.sha256(code).hexdigest(),
            "items": hashlib.sha256(index).hexdigest(),
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "pickled": pickled,
            "attempts": attempts,
        }
        return store.create(replace(spec, problem=problem, solver=KIND))
    except ConflictError:  # another of this name is being made
        raise InputError(f"job {spec.id!r} exists already: choose another id") from None
    except BaseException:
        store.storage.delete(f"jobs/{spec.id}")
        raise


def _put_items(store: JobStore, job: str, items: Iterable[Any]) -> tuple[int, bytes]:
    """How many items there are, and the index of the objects that hold them, as JSON."""
    starts, hashes = [], []
    n = 0
    for part, shard in enumerate(_shards(items)):
        data = codec.encode({f"{n + i}": np.frombuffer(item, dtype=np.uint8) for i, item in enumerate(shard)})
        store.storage.put(store.key(job, f"items/{part:06d}"), data)
        starts.append(n)
        hashes.append(hashlib.sha256(data).hexdigest())
        n += len(shard)
        if n > MOST:
            raise InputError(f"a map takes {MOST} items at most: put several into one")
    return n, json.dumps({"starts": starts, "hashes": hashes}, separators=(",", ":")).encode()


def _shards(items: Iterable[Any]) -> Iterator[list[bytes]]:
    shard: list[bytes] = []
    size = 0
    for item in items:
        data = values.dumps(item, pickled=True)
        if shard and (size + len(data) > SHARD or len(shard) == WAVE):
            yield shard
            shard, size = [], 0
        shard.append(data)
        size += len(data)
    if shard:
        yield shard


def run_map(
    store: JobStore,
    spec: JobSpec,
    ctx: Runtime,
    update: Callable[..., object],
    watch: Watcher | None = None,
    *,
    root: str = "",
    run_id: str = "",
) -> None:
    """Call the job's function on the items that have no results yet.

    Parameters
    ----------
    update : changes fields of the job's status. watch : is given each wave's figures.
    root : key prefix of what tasks store. run_id : tells this run's task records from those of others.

    The job's status says whether it is done or was cancelled, which keeps the results of complete waves. Raises
    ItemError when the function fails on an item, as often as the spec lets it try, and CodeRefusedError where workers
    do not run it.
    """
    job, n = spec.id, int(spec.problem["n"])
    before = store.events(job)
    began = ctx.began = time.perf_counter() - (float(before[-1]["seconds"]) if before else 0.0)
    ctx.max_attempts = int(spec.problem["attempts"])
    for wave, start in enumerate(range(0, n, WAVE)):
        if store.storage.exists(_outputs(job, wave)):
            continue
        stop = min(start + WAVE, n)
        try:
            found = _wave(spec, ctx, wave, range(start, stop), root)
        except CancelledError as error:
            message = f"{error}; results of {start} of {n} items are kept"
            update(state="cancelled", pid=None, ended=time.time(), message=message)
            return
        put_once(store.storage, _outputs(job, wave), found)
        row = {"iteration": wave, "done": stop, "items": n, "seconds": time.perf_counter() - began}
        store.save_tasks(job, wave, ctx.records, run_id)
        store.save_event(job, wave, row)
        ctx.records.clear()
        update(iteration=wave)
        if watch is not None:
            watch(row)
    update(state="done", pid=None, ended=time.time(), message=f"{n} results")


def _wave(spec: JobSpec, ctx: Runtime, wave: int, items: range, root: str) -> dict[str, np.ndarray]:
    ctx.prefix = f"{root}{wave:06d}"
    # the hashes tell the job from one of the same name before it, of which workers may still hold something
    named = {"job": spec.id, "code": f"{spec.problem['code'][:16]}{spec.problem['items'][:16]}"}
    tasks = [Task("map.call", f"{ctx.prefix}/{i:08d}", params={**named, "index": i}) for i in items]
    try:
        [found] = ctx.run(Phase(f"map#{wave}", tasks, Uncoded(len(tasks))))
    except PhaseError as error:
        raise _why(ctx, error, items.start) from None
    return {f"{i}": result[0] for i, result in zip(items, found, strict=True)}


def _why(ctx: Runtime, error: PhaseError, start: int) -> ItemError | CodeRefusedError | PhaseError:
    """The phase's failure as the caller's: the first item that has no result, and what its last attempt said."""
    said = str(error)
    if calls.REFUSED in said:
        return CodeRefusedError(said)
    used = {record.index for record in ctx.records if record.fate == "used"}
    fates = {record.index: record.fate for record in ctx.records if record.index not in used}
    ended_it = [i for i, fate in fates.items() if fate == said] or list(fates)
    if not ended_it:
        return error
    first = min(ended_it)
    text = fates[first].removeprefix("map.call: ").removeprefix(f"{calls.FunctionError.__name__}: ")
    prefix = f"item {start + first}: "
    return ItemError(text if text.startswith(prefix) else prefix + text, start + first)


def failure(job: str, message: str) -> OvercastError:
    """The error that a failed map's status tells of."""
    if message.startswith(calls.REFUSED):
        return CodeRefusedError(message)
    if found := re.match(r"item (\d+): ", message):
        return ItemError(message, int(found[1]))
    return JobError(f"job {job} failed: {message}")


def load_outputs(storage: Storage, spec: JobSpec, *, trust: bool = False) -> list[Any]:
    """Results in the order of the items.

    Raises InputError for pickled ones, unless `trust`, and KeyMissingError before the end.
    """
    n = int(spec.problem["n"])
    out = []
    for wave, start in enumerate(range(0, n, WAVE)):
        found = storage.get_arrays(_outputs(spec.id, wave))
        for i in range(start, min(start + WAVE, n)):
            data = np.ascontiguousarray(found[f"{i}"]).data
            if not trust and values.is_pickled(data):
                raise InputError(
                    f"the result of item {i} is pickled, and unpickling runs what its writer wished: if you trust the "
                    "workers and the store, ask with trust_results=True"
                )
            out.append(values.loads(data, f"result of item {i}", trust=trust))
    return out


def _outputs(job: str, wave: int) -> str:
    return f"jobs/{job}/outputs/{wave:06d}"
