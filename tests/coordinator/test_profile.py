"""The machine's rates: plausible when measured, kept once, measured anew when they are of no use."""

import json
from dataclasses import asdict, fields, replace

import pytest

from coordinator import profile as profiles
from coordinator.executors.local import default_workers
from coordinator.profile import KEY, Profile, measure, profile_id, stored_profile
from coordinator.storage import FileStorage, MemoryStorage

RATES = Profile(default_workers(), 2e10, 1e10, 5e8, 8e10, 4e10, 8e10, 6e9, 1e8, 1e10)


def test_measured_rates_are_possible():
    found = measure(1)
    assert found.workers == 1
    for field in fields(found):
        assert getattr(found, field.name) > 0, field.name
    # between what a slow, shared machine can do and what none can
    assert 1e8 < found.stream < 1e12
    assert 1e8 < found.read < 1e12
    assert 1e6 < found.nonzeros < 1e11
    assert 1e8 < found.gemm64 < 1e13
    assert 1e8 < found.gemm32 < 1e13
    assert 1e7 < found.solve64 < 1e13
    assert found.gemm32 > 0.5 * found.gemm64
    assert Profile(**json.loads(found.to_json())) == found


@pytest.fixture
def measured(monkeypatch):
    """Counts measurements, which take no time here."""
    count = []
    monkeypatch.setattr(profiles, "measure", lambda: count.append(1) or RATES)
    return count


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_measured_once(tmp_path, measured, kind):
    storage = FileStorage(tmp_path) if kind == "files" else MemoryStorage()
    assert stored_profile(storage) == RATES
    assert stored_profile(storage) == RATES
    assert len(measured) == 1
    assert Profile(**json.loads(storage.get(KEY))) == RATES


@pytest.mark.parametrize(
    "kept",
    [
        replace(RATES, workers=RATES.workers + 1).to_json(),
        replace(RATES, version=0).to_json(),
        "[]",
        "{",
        json.dumps(asdict(RATES) | {"unknown": 1}),
    ],
)
def test_measured_anew_when_of_no_use(measured, kept):
    storage = MemoryStorage()
    storage.swap(KEY, kept.encode(), None)
    assert stored_profile(storage) == RATES
    assert len(measured) == 1
    assert Profile(**json.loads(storage.get(KEY))) == RATES


def test_who_is_first_decides(monkeypatch):
    storage = MemoryStorage()
    other = replace(RATES, read=1.0)

    def slow():
        storage.swap(KEY, other.to_json().encode(), None)  # another process has been quicker
        return RATES

    monkeypatch.setattr(profiles, "measure", slow)
    assert stored_profile(storage) == other


def test_a_short_name():
    assert len(profile_id(RATES)) == 8
    assert profile_id(RATES) == profile_id(replace(RATES))
    assert profile_id(RATES) != profile_id(replace(RATES, read=1.0))
