"""What tests of jobs on the emulated cloud share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from overcast import CloudClient

TIMEOUT = 4  # seconds


@pytest.fixture
def calm(deployment: Any) -> Iterator[None]:
    """No faults after a test."""
    yield
    deployment.emulator.faults()


@pytest.fixture(scope="module")
def hasty(deployment: Any) -> Iterator[CloudClient]:
    """A client of the emulated deployment, whose workers have little time, so that silent deaths are noticed."""
    functions = deployment.emulator.client("lambda")
    usual = functions.get_function_configuration(FunctionName=deployment.stack.workers[0])["Timeout"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in deployment.variables.items():
            patch.setenv(name, value)
        _set_timeout(deployment, functions, TIMEOUT)
        yield CloudClient(deployment.stack.api)
        _set_timeout(deployment, functions, usual)


def _set_timeout(deployment: Any, functions: Any, seconds: int) -> None:
    for name in deployment.stack.workers:
        functions.update_function_configuration(FunctionName=name, Timeout=seconds)
    for pid in deployment.emulator.processes():  # those that are warm have the limit of before
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
