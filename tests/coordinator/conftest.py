"""Fixtures of the tests of jobs and what runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.data.importing import ImportOptions, import_data
from coordinator.jobs import JobSpec, JobStore
from coordinator.profile import Profile
from coordinator.storage import FileStorage, MemoryStorage, Storage

RATES = Profile(2, 2e10, 1e10, 5e8, 8e10, 4e10, 8e10, 6e9, 1e8, 1e10)


@pytest.fixture(params=["files", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> JobStore:
    """An empty store of jobs, on disk and in memory."""
    storage: Storage = FileStorage(tmp_path / "store") if request.param == "files" else MemoryStorage()
    return JobStore(storage)


@pytest.fixture(scope="session")
def two_classes() -> tuple[np.ndarray, np.ndarray]:
    """500 rows of two overlapping classes in six columns of unlike scales."""
    rng = np.random.default_rng(11)
    X = rng.standard_normal((500, 6)) * np.geomspace(1, 0.05, 6)
    y = (X @ rng.standard_normal(6) + 0.3 * rng.standard_normal(500) > 0).astype(float)
    return X, y


@pytest.fixture
def ask(two_classes: tuple[np.ndarray, np.ndarray]) -> Callable[..., JobSpec]:
    """Store a logistic job on `two_classes` (imported as "two" where they are not there yet); its spec."""

    def make(store: JobStore, id: str = "job-one", **fields: Any) -> JobSpec:  # noqa: A002
        if not store.storage.exists("data/two/manifest.json"):
            X, y = two_classes
            import_data(store.storage, X, ImportOptions("two", block_bytes=4096), target=y)
        usual = {
            "data": "two",
            "problem": {"loss": "logistic", "l2": 1e-3},
            "solver": "oversketched-newton",
            "workers": 2,
            "profile": asdict(RATES),
        }
        return store.create(JobSpec(id, **(usual | fields)))

    return make
