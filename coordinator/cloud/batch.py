"""What Lithops runs: a few tasks of one phase, one after the other, in a process of their own.

Lithops forks a process for each call, on every back end, so that nothing is warm at its start; therefore one call does
several tasks. What comes of each lies in our storage at once: that it began, and its result, or how it failed. The call
itself returns nothing: Lithops would pickle it.

A request is {"storage": {"kind": "file", "root"} or {"kind": "s3", "bucket"}, "off": key, "tasks": [...]}, the tasks as
in `coordinator.cloud.wire`; an object at `off` says that nobody waits for them any more.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import coordinator.kernels
import coordinator.solvers  # noqa: F401  both register kernels
from coordinator.cloud import wire
from coordinator.cloud.wire import Request
from coordinator.errors import ConflictError, InputError, OvercastError, StorageError, one_line
from coordinator.runtime import BLAS
from coordinator.storage import FileStorage, Storage
from coordinator.tasks import Report, Worker

DISK: Final = 4 << 30  # bytes of the temporary folder for blocks, at most

_workers: dict[str, Worker] = {}


def call(request: str) -> None:
    """Run the tasks of a request. Raises only for what is none."""
    raw = json.loads(request)
    tasks = [Request.from_event(item) for item in raw["tasks"]]
    worker = _worker(raw["storage"])
    with BLAS.limit(1):  # as everywhere: with more threads, products round differently
        for task in tasks:
            if worker.data.exists(raw["off"]):
                return
            _run(worker, task)


def describe(storage: Storage) -> dict[str, str]:
    """Where a storage is, for workers elsewhere; InputError for one that they cannot reach. It holds no credentials."""
    from coordinator.s3 import S3Storage

    if isinstance(storage, FileStorage):
        return {"kind": "file", "root": str(storage.root)}
    if isinstance(storage, S3Storage):
        return {"kind": "s3", "bucket": storage.bucket}
    raise InputError(
        "workers in other processes need a store on disk, or in a bucket: Client('folder' or 's3://BUCKET')"
    )


def _worker(where: Mapping[str, str]) -> Worker:
    """The worker of this process on that storage."""
    name = json.dumps(where, sort_keys=True)
    if name not in _workers:
        _workers[name] = _open(where)
    return _workers[name]


def _open(where: Mapping[str, str]) -> Worker:
    if where["kind"] == "file":
        return Worker(FileStorage(where["root"]))
    from coordinator.cloud.worker import CloudWorker
    from coordinator.s3 import S3Storage

    folder = Path(tempfile.mkdtemp(prefix="overcast-"))
    disk = min(shutil.disk_usage(folder).free // 4, DISK)
    return CloudWorker(S3Storage(where["bucket"]), memory(), disk, folder)


def memory() -> int:
    """Bytes that this process may use: of the machine, or less where its container or function is given less."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError, ValueError):
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    if given := os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"):
        limits.append(int(given) << 20)
    return min(limits)


def _run(worker: Worker, request: Request) -> None:
    storage, task = worker.data, request.task
    began = time.perf_counter()
    with suppress(ConflictError):
        storage.put(wire.start_key(request.key, request.attempt), b"")
    if storage.exists(request.key):
        return
    try:
        result = worker.run(task)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        data = wire.pack(result, Report(compute=seconds, seconds=seconds, memory=peak))
    except StorageError as error:
        _fail(storage, request, str(error), retry=True)
    except OvercastError as error:
        _fail(storage, request, str(error), retry=False)
    except Exception as error:  # noqa: BLE001  any failure of a kernel is an erasure, told to the policy
        _fail(storage, request, f"{task.kernel}: {type(error).__name__}: {error}", retry=True)
    else:
        with suppress(ConflictError):
            storage.put(request.key, data)


def _fail(storage: Storage, request: Request, text: str, *, retry: bool) -> None:
    said: dict[str, Any] = {"message": one_line(text, 2000), "retry": retry}
    with suppress(ConflictError):
        storage.put(wire.error_key(request.key, request.attempt), json.dumps(said).encode())


def request(storage: Mapping[str, str], off: str, tasks: list[Request]) -> str:
    """The argument of `call`."""
    plain = [asdict(task) for task in tasks]
    return json.dumps({"storage": dict(storage), "off": off, "tasks": plain}, separators=(",", ":"))


__all__ = ["call", "describe", "memory", "request"]
