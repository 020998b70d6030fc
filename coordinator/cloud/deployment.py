"""What a function knows of its deployment: the variables that the stack has set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from coordinator.errors import InputError
from coordinator.profile import Profile

WORKERS: Final = 64  # vCPUs that a job is planned for where its spec says nothing


@dataclass(frozen=True)
class Deployment:
    """Names of one stage.

    Attributes
    ----------
    bucket, stage, driver : names of the bucket, of the stage and of the driver's function.
    workers : names of the worker's functions, by increasing memory.
    version : of the package that is deployed.
    allow_code : whether jobs may bring functions of their own.
    lease : seconds after which a driver that says nothing counts as dead.
    longest : seconds after which the call of a worker is given up.
    memory : MB of the workers, in their order.
    """

    bucket: str
    stage: str
    driver: str
    workers: tuple[str, ...]
    version: str
    allow_code: bool = False
    lease: float = 60.0
    longest: float = 910.0
    memory: tuple[int, ...] = (1769, 3538, 7076)

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None) -> Deployment:
        """From OVERCAST_BUCKET and its like; InputError naming the one that is missing."""
        found = os.environ if variables is None else variables
        for name in ("OVERCAST_BUCKET", "OVERCAST_STAGE"):
            if not found.get(name):
                raise InputError(f"the variable {name} is not set: deploy again")
        workers = tuple(name for name in found.get("OVERCAST_WORKERS", "").split(",") if name)
        return cls(
            bucket=found["OVERCAST_BUCKET"],
            stage=found["OVERCAST_STAGE"],
            driver=found.get("OVERCAST_DRIVER") or found.get("AWS_LAMBDA_FUNCTION_NAME", ""),
            workers=workers,
            version=found.get("OVERCAST_VERSION") or version("overcast"),
            allow_code=found.get("OVERCAST_ALLOW_CODE", "") in {"1", "true", "yes"},
            lease=float(found.get("OVERCAST_LEASE") or 60.0),
            longest=float(found.get("OVERCAST_TASK_SECONDS") or 910.0),
            memory=tuple(int(n) for n in found.get("OVERCAST_WORKER_MB", "1769,3538,7076").split(",")),
        )


def cloud_profile(workers: int | None = None) -> Profile:
    """Nominal rates of so many workers of one vCPU each, and of a driver of two: the same for every job.

    Decisions must not depend on which machine a job was first seen by. Rates a vCPU are those of a busy core of a 2020s
    server; a phase costs a round trip through Lambda and S3.
    """
    n = workers or WORKERS
    return Profile(
        workers=n,
        read=5e9 * n,
        stream=3e9 * n,
        nonzeros=1.5e8 * n,
        gemm32=4e10 * n,
        gemm64=2e10 * n,
        syrk32=4e10 * n,
        scatter=2e9 * n,
        sparse_scatter=2e7 * n,
        solve64=2e10,
        task=0.02,
        phase=0.15,
    )
