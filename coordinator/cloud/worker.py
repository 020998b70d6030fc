"""The worker's half on Lambda: one task a call, with what the environment keeps between calls.

Half of the function's memory that Python and its libraries leave goes to data blocks, a sixth to values derived from
them, the rest is for computing. See `coordinator.cloud.wire` for requests and answers. No exception leaves `handler`.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

import coordinator.kernels
import coordinator.solvers  # noqa: F401  both register kernels
from coordinator.cloud import wire
from coordinator.cloud.cache import BlockCache
from coordinator.cloud.wire import Request
from coordinator.data.blocks import Block
from coordinator.errors import ConflictError, InputError, KeyMissingError, OvercastError, StorageError, one_line
from coordinator.processes import age
from coordinator.runtime import BLAS
from coordinator.s3 import S3Storage
from coordinator.tasks import Arrays, Memo, Report, Worker

BASE: Final = 160 << 20  # bytes of Python, NumPy, SciPy and boto3
INPUTS: Final = 1 / 16  # share of the rest for small inputs
BLOCKS: Final = 0.45
MEMO: Final = 0.15
EPHEMERAL: Final = 512 << 20  # bytes of disk that every function has


class CloudWorker(Worker):
    """A worker whose blocks and inputs are kept within bounds."""

    def __init__(self, storage: S3Storage, memory: int, disk: int, folder: Path) -> None:
        room = max(memory - BASE, memory // 4)
        super().__init__(storage, memo_bytes=int(MEMO * room))
        self.storage = storage
        self.cache = BlockCache(storage, int(BLOCKS * room), disk, folder)
        self.seconds = 0.0  # of fetching inputs
        self._inputs = Memo(int(INPUTS * room))

    def block(self, key: str, n_features: int) -> Block:
        return self.cache.block(key, n_features)

    def input(self, key: str) -> NDArray[Any]:
        found = self._inputs.get(key)
        if found is None:
            began = time.perf_counter()
            found = (self.scratch.get_arrays(key)["array"],)
            self._inputs.put(key, value=found)
            self.seconds += time.perf_counter() - began
        return found[0]

    def discard(self, prefix: str) -> None:
        """Workers have no right to delete; the driver clears a job's objects."""


class Environment:
    """What one environment keeps: its worker, and how often it was called.

    Parameters
    ----------
    memory : of the function, MB. disk : bytes of ephemeral storage that may be used.
    """

    def __init__(self, storage: S3Storage, memory: int, disk: int, folder: Path, init: float = 0.0) -> None:
        self.storage = storage
        self.worker = CloudWorker(storage, memory << 20, disk, folder)
        self._memory = memory
        self._init = init
        self._calls = 0

    def answer(self, event: Any) -> dict[str, Any]:
        """Run a request; every failure is an answer, too."""
        began = time.perf_counter()
        cold, self._calls = self._calls == 0, self._calls + 1
        try:
            request = Request.from_event(event)
        except InputError as error:
            return _failed(400, error, retry=False)
        meter = _Meter(self, began, cold)
        try:
            return self._run(request, meter)
        except InputError as error:
            return self._say(request, _failed(422, error, retry=False), meter)
        except KeyMissingError as error:
            return self._say(request, _failed(404, error, retry=False), meter)
        except StorageError as error:
            return self._say(request, _failed(503, error, retry=True), meter)
        except OvercastError as error:
            return self._say(request, _failed(422, error, retry=False), meter)
        except MemoryError as error:
            self.worker.memo = Memo(0)
            return self._say(request, _failed(507, error, retry=True), meter)
        except Exception as error:  # noqa: BLE001  any failure of a kernel is an erasure, told to the policy
            said = {"type": type(error).__name__, "message": f"{request.task.kernel}: {type(error).__name__}: {error}"}
            return self._say(request, {"status": 422, "error": _short(said), "retry": True}, meter)

    def _run(self, request: Request, meter: _Meter) -> dict[str, Any]:
        task, storage = request.task, self.storage
        if request.marked:
            with suppress(ConflictError):
                storage.put(wire.start_key(request.key, request.attempt), b"")
        if request.store == "always" and storage.exists(request.key):
            return {"status": 200, "stored": True, "report": asdict(meter.report())}
        self.worker.cache.expect(task.blocks)
        result: Arrays = self.worker.run(task)
        small = request.store == "large" and sum(a.nbytes + 128 for a in result) < wire.LARGEST
        if small:
            report = asdict(meter.report())
            return {"status": 200, "result": wire.to_text(wire.pack(result)), "report": report}
        began = time.perf_counter()
        with suppress(ConflictError):
            storage.put(request.key, wire.pack(result, meter.report(writes=1)))
        return {"status": 200, "stored": True, "report": asdict(meter.report(time.perf_counter() - began))}

    def _say(self, request: Request, answer: dict[str, Any], meter: _Meter) -> dict[str, Any]:
        answer["report"] = asdict(meter.report())
        if request.marked and answer["status"] != 400:
            with suppress(OvercastError):
                self.storage.put(wire.error_key(request.key, request.attempt), json.dumps(answer).encode())
        return answer


class _Meter:
    """Figures of one call."""

    def __init__(self, environment: Environment, began: float, cold: bool) -> None:
        self._environment, self._began, self._cold = environment, began, cold
        cache, worker = environment.worker.cache, environment.worker
        cache.hits = cache.misses = 0
        cache.seconds = worker.seconds = 0.0
        self._usage = environment.storage.usage.now()

    def report(self, put: float = 0.0, writes: int = 0) -> Report:
        """Figures so far; `writes` are about to come."""
        environment = self._environment
        cache = environment.worker.cache
        used = environment.storage.usage.since(self._usage)
        seconds = time.perf_counter() - self._began
        get = cache.seconds + environment.worker.seconds
        return Report(
            cold=self._cold,
            hits=cache.hits,
            misses=cache.misses,
            init=environment._init if self._cold else 0.0,  # noqa: SLF001
            get=get,
            compute=max(seconds - get - put, 0.0),
            put=put,
            seconds=seconds,
            memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            limit=environment._memory,  # noqa: SLF001
            bytes_in=used.bytes_in,
            bytes_out=used.bytes_out,
            reads=used.reads,
            writes=used.writes + writes,
        )


def _failed(status: int, error: Exception, *, retry: bool) -> dict[str, Any]:
    said = {"type": type(error).__name__, "message": str(error) or type(error).__name__}
    return {"status": status, "error": _short(said), "retry": retry}


def _short(said: dict[str, str]) -> dict[str, str]:
    return {name: one_line(text, 1000) for name, text in said.items()}


_environment: Environment | None = None
_for_good: Final = ExitStack()


def environment() -> Environment:
    """The environment that this process is, made on the first call from what Lambda says in variables."""
    global _environment  # noqa: PLW0603  that is what an environment is
    if _environment is None:
        storage = S3Storage(os.environ["OVERCAST_BUCKET"], blind=True)
        folder = Path(tempfile.mkdtemp(prefix="overcast-"))
        disk = int(0.9 * min(shutil.disk_usage(folder).free, EPHEMERAL))
        memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1769"))
        _for_good.enter_context(BLAS.limit(1))  # with more threads than elsewhere, products would round differently
        _environment = Environment(storage, memory, disk, folder, age())
    return _environment


def handler(event: Any, context: Any = None) -> dict[str, Any]:  # noqa: ARG001  Lambda's signature
    """What Lambda calls."""
    return environment().answer(event)


if "AWS_LAMBDA_RUNTIME_API" in os.environ:
    environment()  # while Lambda starts it, which its time limits do not count

__all__ = ["CloudWorker", "Environment", "handler"]
