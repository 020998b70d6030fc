"""SIGKILL at random moments of a solve, `overcast solve --resume` after each: the same final iterate, bit for bit."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from coordinator.data.importing import ImportOptions
from coordinator.jobs import JobStore
from coordinator.results import Result, load_result
from coordinator.storage import FileStorage
from overcast import store as stores

pytestmark = pytest.mark.e2e

ITERATION = 0.1  # seconds that one takes at most, about: kills fall anywhere in it
START = 0.7  # the same of a process until it iterates


def settings(strategy: str) -> list[str]:
    given = {"strategy": strategy, "sketch_rows": "60"}
    return [word for key, value in given.items() for word in ("--set", f"{key}={value}")]


def fill(folder: Path, n: int, block: int) -> None:
    """Correlated columns of unlike scales, in blocks so small that the work is in their number."""
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((40, 40)) * np.geomspace(1, 1e-2, 40)
    X = rng.standard_normal((n, 40)) @ mix
    y = (X @ rng.standard_normal(40) + rng.standard_normal(n) > 0).astype(float)
    stores.bring_in(FileStorage(folder), X, ImportOptions("rows", block_bytes=block), target=y)


@contextmanager
def overcast(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "overcast.cli", *words, "--store", str(folder), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def newest(folder: Path, job: str) -> int:
    """The last iteration that left its figures; -1 before the first."""
    try:
        names = [path.name for path in (folder / "jobs" / job / "events").iterdir()]
    except FileNotFoundError:
        return -1
    return max((int(name[:6]) for name in names if name[0] != "."), default=-1)


def killed(process: subprocess.Popen[str], folder: Path, job: str, after: int, pause: float) -> bool:
    """Kill it `pause` seconds after iteration `after` was seen; False when it had ended."""
    limit = time.monotonic() + 60
    while newest(folder, job) < after and process.poll() is None:
        assert time.monotonic() < limit, "no progress"
        time.sleep(0.001)
    time.sleep(pause)
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


def undisturbed(folder: Path, *words: str) -> Result:
    with overcast(folder, "solve", "rows", *words, "--id", "job-whole") as process:
        assert process.wait(120) == 0, process.stderr.read()
    return load_result(FileStorage(folder), "job-whole")


def check_kills(folder: Path, count: int, seed: int, *words: str) -> None:
    """Kill a solve `count` times, resume it each time, and compare its end with that of an undisturbed one."""
    whole = undisturbed(folder, *words)
    chance = random.Random(seed)
    moments = sorted(chance.randrange(-1, whole.n_iter_ - 1) for _ in range(count))
    done = 0
    for i, after in enumerate(moments):
        go = ("solve", "rows", *words, "--id", "job-cut") if i == 0 else ("solve", "--resume", "job-cut")
        pause = chance.uniform(0, START if after < 0 else ITERATION)
        with overcast(folder, *go) as process:
            done += killed(process, folder, "job-cut", after, pause)
        if not (folder / "jobs/job-cut/spec.json").exists():  # killed before the job was made: make it again
            with overcast(folder, "solve", "rows", *words, "--id", "job-cut") as process:
                killed(process, folder, "job-cut", 0, 0.0)
    assert done >= count - 2, "too few kills fell into the solve"
    with overcast(folder, "solve", "--resume", "job-cut") as process:
        assert process.wait(120) == 0, process.stderr.read()
    storage = FileStorage(folder)
    found = load_result(storage, "job-cut")
    assert found.coef_.tobytes() == whole.coef_.tobytes()
    assert found.intercept_ == whole.intercept_
    assert found.n_iter_ == whole.n_iter_
    same = ("iteration", "objective", "residual", "relative", "strategy", "step")
    for before, after_kills in zip(whole.history, found.history, strict=True):
        assert [before.get(key) for key in same] == [after_kills.get(key) for key in same]
    assert JobStore(storage).status("job-cut").state == "done"
    assert not [path for path in folder.rglob("*") if ".tmp" in path.name]


def test_twenty_kills_of_one_solve(folder):
    """The paper's own steps, a fresh sketch an iteration."""
    fill(folder, 8000, 24 << 10)
    check_kills(folder, 20, 1, "--loss", "logistic", "--l2", "1e-7", "--tol", "1e-11", *settings("sketch"))


@pytest.mark.parametrize("strategy", ["metric", "averaged", "pcg"])
def test_kills_of_strategies_with_memory(folder, strategy):
    """What lasts longer than a step (pairs, averages, a metric) comes back from the checkpoint as it was."""
    fill(folder, 3000, 24 << 10)
    check_kills(folder, 4, 2, "--loss", "logistic", "--l2", "1e-7", "--tol", "1e-9", *settings(strategy))
