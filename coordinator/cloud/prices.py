"""Prices of AWS, as data with a date: `prices.json`. In dollars; other regions differ by up to about a third.

Beside them stands how long an environment takes to start, which is billed, with a date of its own.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import ceil
from typing import Any


@dataclass(frozen=True)
class Prices:
    """Dollars: per GB-second of a function, per request of it, per request to S3 (`write`: PUT and LIST too).

    `start` : seconds that an environment takes before its first call.
    """

    gb_second: float
    request: float
    s3_write: float
    s3_read: float
    date: str
    start: float

    def call(self, memory: float, seconds: float, reads: int = 0, writes: int = 0) -> float:
        """One call of a function with `memory` MB, billed by the millisecond, and its requests to S3."""
        billed = ceil(max(seconds, 0.0) * 1000 - 1e-9) / 1000
        return memory / 1024 * billed * self.gb_second + self.request + self.storage(reads, writes)

    def starts(self, memory: float, count: int) -> float:
        """So many environments of a function with `memory` MB, beside the calls that they start for."""
        return count * memory / 1024 * self.start * self.gb_second

    def storage(self, reads: int, writes: int) -> float:
        """Requests to S3."""
        return reads * self.s3_read + writes * self.s3_write


@cache
def prices(machine: str | None = None) -> Prices:
    """Prices for functions on `machine`, "x86_64" or "arm64"; default: this one's kind."""
    raw: dict[str, Any] = json.loads(resources.files("coordinator.cloud").joinpath("prices.json").read_text("utf-8"))
    arm = (machine or platform.machine()) in {"arm64", "aarch64"}
    return Prices(
        gb_second=raw["gb_second"]["arm64" if arm else "x86_64"],
        request=raw["lambda_request"],
        s3_write=raw["s3_write"],
        s3_read=raw["s3_read"],
        date=raw["date"],
        start=raw["cold_start"]["seconds"],
    )
