"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def real() -> Callable[[str], Path]:
    """Path of a real data set; skips where it is not to be had."""

    def find(name: str) -> Path:
        beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
        root = Path(os.environ.get("OVERCAST_TEST_DATA", beside))
        if not (root / name).exists():
            pytest.skip(f"{name} is not in {root}: set OVERCAST_TEST_DATA to a folder that holds it")
        return root / name

    return find
