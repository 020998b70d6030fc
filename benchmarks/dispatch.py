"""How fast the AWS executor hands out tasks: 1,000 warm trivial ones on the emulator, and what a phase adds to them.

    python benchmarks/dispatch.py

The emulator runs on the same cores and takes most of them. Overhead is the time of a phase beyond its slowest task.
"""

from __future__ import annotations

import os
import resource
import time

from coordinator.cloud.signed import HttpInvoke
from coordinator.executors.aws import LambdaExecutor
from coordinator.phases import Phase
from coordinator.runtime import Runtime
from coordinator.s3 import S3Storage
from coordinator.tasks import Task
from infra import osls, stack
from infra.emulator.client import EmulatorProcess
from sketches import Uncoded

TASKS, PHASES = 1000, 60


def phase(n: int) -> Phase:
    params = {"n": 1, "text": True, "classes": []}
    return Phase("p#1", [Task("data.classes", f"jobs/bench/{i}", params=params) for i in range(n)], Uncoded(n))


def measure(workers: tuple[str, ...], storage: S3Storage, limit: int) -> None:
    invoke = HttpInvoke(limit)
    with LambdaExecutor(invoke, workers, storage, limit=limit) as executor:
        ctx = Runtime(executor, storage)
        ctx.run(phase(8 * limit))  # to warm up
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        ctx.run(phase(TASKS))
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        over = []
        for _ in range(PHASES):
            ctx.records.clear()
            began = time.perf_counter()
            ctx.run(phase(limit))
            over.append(time.perf_counter() - began - max(r.ended - r.started for r in ctx.records))
        over.sort()
    invoke.close()
    middle, high = over[PHASES // 2], over[PHASES * 9 // 10]
    print(f"{limit:5d} {TASKS / seconds:8.0f} {1e3 * own / TASKS:10.2f} {1e3 * middle:10.1f} {1e3 * high:8.1f}")


def main() -> None:
    osls.install()
    stack.build_local()
    with EmulatorProcess() as emulator:
        os.environ.update(emulator.variables)
        deployed = stack.create(emulator.variables, stack.Options())
        print("at once  tasks/s  CPU ms/task  overhead ms: median, p90")
        for limit in (4, 8, 16):
            measure(deployed.workers, S3Storage(deployed.bucket), limit)


if __name__ == "__main__":
    main()
