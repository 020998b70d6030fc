"""Calls of functions that users bring, for jobs of kind "map" (`coordinator.mapping`).

A task names a job and the position of an item. The function runs only where the deployment allows code, and only if
its bytes, like those of the item, have the SHA-256 that the job's spec, which is written once, says.
"""

from __future__ import annotations

import hashlib
import json
import sys
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from coordinator import arrays as codec
from coordinator import values
from coordinator.errors import CodeRefusedError, InputError, KeyMissingError, one_line
from coordinator.storage import Storage
from coordinator.tasks import Arrays, Work, Worker, kernel

JOBS: Final = 4  # jobs whose function a worker keeps
REFUSED: Final = "code refused: "  # errors reach the coordinator as text


class FunctionError(Exception):
    """The user's function raised; the text is the exception's."""


@dataclass(frozen=True)
class Loaded:
    """What a worker keeps of a job: its function, and where the items are."""

    function: Callable[[Any], Any]
    pickled: bool
    starts: tuple[int, ...]
    hashes: tuple[str, ...]


@kernel("map.call")
def call(work: Work, *, job: str, code: str, index: int) -> Arrays:
    """The function's result for item `index` of `job`, as the bytes of `coordinator.values`.

    `code` tells the function and the items by their hashes: a job that was deleted may have left its name to another.
    """
    worker = work.worker
    name = f"{job}/{code}"
    found = worker.loaded.get(name)
    if found is None:
        found = _load(worker, job)
        for old in [*worker.loaded][: 1 - JOBS]:
            worker.loaded.pop(old, None)
        worker.loaded[name] = found
    item = _item(worker, found, job, index)
    try:
        result = found.function(item)
    except Exception as error:
        said = one_line(error, 1000)
        raise FunctionError(f"{type(error).__name__}: {said}" if said else type(error).__name__) from error
    try:
        return (np.frombuffer(values.dumps(result, pickled=found.pickled), dtype=np.uint8),)
    except InputError as error:
        hint = "" if found.pickled else ", or ask for pickled results: trust_results=True"
        raise InputError(f"item {index}: the result cannot travel: {error}{hint}") from None


def verified(storage: Storage, key: str, sha256: str) -> bytes:
    """The object; CodeRefusedError when its hash is not what was said, KeyMissingError when it is not there."""
    data = storage.get(key)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CodeRefusedError(
            f"{REFUSED}{key} has SHA-256 {found[:16]}..., the job's spec says {sha256[:16]}...: not run"
        )
    return data


def _load(worker: Worker, job: str) -> Loaded:
    """The job's function, once everything about it has been checked."""
    if not worker.allow_code:
        raise CodeRefusedError(
            f"{REFUSED}job {job!r} brings a function of its own, and code is not allowed here: set "
            "OVERCAST_ALLOW_CODE=1 for the workers, or Client(allow_code=True) for this process"
        )
    try:
        problem = json.loads(worker.data.get(f"jobs/{job}/spec.json"))["problem"]
        n, code, python, pickled = problem["n"], problem["code"], problem["python"], problem["pickled"]
        index = json.loads(verified(worker.data, f"jobs/{job}/items/index.json", problem["items"]))
        data = verified(worker.data, f"jobs/{job}/code", code)
    except KeyMissingError as error:
        raise InputError(f"job {job!r} is no map, or parts of it are gone: {error}") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"job {job!r} is no map: it has no function to call") from None
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python != here:
        raise CodeRefusedError(
            f"{REFUSED}job {job!r} was made by Python {python}, and this worker is Python {here}: a function travels "
            "only between equal versions"
        )
    function = values.unpickle(data, f"the function of job {job}")
    if not callable(function) or not isinstance(n, int):
        raise InputError(f"job {job!r} is no map: what it brings cannot be called")
    return Loaded(function, bool(pickled), tuple(index["starts"]), tuple(index["hashes"]))


def _item(worker: Worker, loaded: Loaded, job: str, index: int) -> Any:
    part = bisect_right(loaded.starts, index) - 1
    key = f"jobs/{job}/items/{part:06d}"
    sha256 = loaded.hashes[part]
    kept = worker.memo.get(sha256)
    if kept is None:
        kept = (np.frombuffer(verified(worker.data, key, sha256), dtype=np.uint8),)
        worker.memo.put(sha256, value=kept)
    items = codec.decode(kept[0].data, key)
    # the hash says that it is as the job's maker wrote it, whose function runs here anyway
    return values.loads(items[f"{index}"].tobytes(), f"item {index} of job {job}", trust=True)
