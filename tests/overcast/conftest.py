from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.executors.local import default_workers
from coordinator.profile import KEY, Profile
from overcast import store as stores
from overcast.cli import main
from overcast.client import Client

RATES = Profile(default_workers(), 2e10, 1e10, 5e8, 8e10, 4e10, 8e10, 6e9, 1e8, 1e10)


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch) -> Profile:
    """Rates that need no measuring, for stores in memory."""
    monkeypatch.setitem(stores._measured, "memory", RATES)
    return RATES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A new store that knows its machine's rates."""
    path = tmp_path / "store"
    path.mkdir()
    (path / KEY).write_text(RATES.to_json())
    return path


@pytest.fixture
def client(folder: Path) -> Client:
    return Client(folder)


@pytest.fixture(scope="session")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """A small problem of two overlapping classes."""
    rng = np.random.default_rng(5)
    X = rng.standard_normal((600, 8))
    y = (X @ rng.standard_normal(8) + rng.standard_normal(600) > 0).astype(float)
    return X, y


@pytest.fixture
def slow_arrays() -> tuple[np.ndarray, np.ndarray]:
    """A problem that gradient descent is busy with for as long as one likes."""
    rng = np.random.default_rng(6)
    X = rng.standard_normal((4000, 30)) * np.geomspace(1, 1e-3, 30)
    y = (X @ rng.standard_normal(30) + rng.standard_normal(4000) > 0).astype(float)
    return X, y


@pytest.fixture
def libsvm(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray]) -> Path:
    path = tmp_path / "two.libsvm"
    X, y = arrays
    rows = (" ".join(f"{j + 1}:{v:.6f}" for j, v in enumerate(row)) for row in X)
    path.write_text("".join(f"{int(label)} {row}\n" for label, row in zip(y, rows, strict=True)))
    return path


@pytest.fixture
def table(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray]) -> Path:
    """A CSV file: colour (text), size, weight, answer (yes or no)."""
    path = tmp_path / "things.csv"
    X, y = arrays
    lines = ["colour,size,weight,answer"]
    for row, label in zip(X, y, strict=True):
        colour = ("red", "green", "blue")[int(abs(row[1]) * 2) % 3]
        lines.append(f"{colour},{row[0]:.5f},{abs(row[2]):.4f},{'yes' if label else 'no'}")
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Ran]]:
    """The command line on the store `folder`."""
    monkeypatch.setenv("OVERCAST_STORE", str(folder))

    def run(*args: Any) -> Ran:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        found = capsys.readouterr()
        return Ran(code, found.out, found.err)

    return run
