"""Checkpoints: states as arrays and back, bit for bit."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import arrays as codec
from coordinator.checkpoint import from_arrays, to_arrays
from coordinator.errors import StorageError
from coordinator.solvers import SOLVERS
from coordinator.solvers.memory import Memory
from coordinator.solvers.moves import NewtonState
from sketches import HessianAverage


@dataclass(frozen=True)
class Inner:
    S: np.ndarray
    count: int


@dataclass(frozen=True)
class Toy:
    w: np.ndarray
    value: float
    inner: Inner
    maybe: Inner | None = None
    rates: list[float] = field(default_factory=list)
    row: dict[str, Any] = field(default_factory=dict)


def again(state: Any) -> Any:
    """Through bytes, as in a store."""
    return from_arrays(type(state), codec.decode(codec.encode(to_arrays(state))))


def same(a: Any, b: Any) -> None:
    for name, value in vars(a).items():
        other = getattr(b, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype
            assert value.shape == other.shape
            assert value.tobytes() == other.tobytes()
        elif hasattr(value, "__dataclass_fields__"):
            same(value, other)
        else:
            assert type(value) is type(other)
            assert repr(value) == repr(other)  # nan is itself, -0.0 is not 0.0


numbers = st.floats(width=64)


@given(numbers, st.lists(numbers, max_size=5), st.lists(numbers, min_size=1, max_size=6))
def test_floats_survive_exactly(value, rates, w):
    inner = Inner(np.zeros((0, 3), dtype=np.float32), 2)
    state = Toy(np.array(w), value, inner, rates=rates, row={"step": value, "strategy": "metric"})
    same(state, again(state))


def test_nested_and_absent_parts():
    inner = Inner(np.arange(6, dtype=np.int32).reshape(2, 3), 7)
    state = Toy(np.array([1.0, -0.0, np.nan, np.inf]), 0.1, inner)
    same(state, again(state))
    full = replace(state, maybe=Inner(np.ones((2, 2)), 1))
    same(full, again(full))
    assert set(to_arrays(full)) == {"w", "inner/S", "maybe/S", "json"}


def test_arrays_come_back_writable_and_of_their_own():
    stored = to_arrays(Toy(np.ones(2), 0.0, Inner(np.ones(1), 1)))
    found = from_arrays(Toy, stored)
    found.w[0] = 5.0
    assert stored["w"][0] == 1.0


def test_the_newton_state_with_everything_in_it():
    rng = np.random.default_rng(0)
    G = rng.standard_normal((9, 4))
    average = HessianAverage.start(G.T @ G, np.full(4, 0.1), 9)
    memory = Memory().push(np.ones(4), np.arange(1.0, 5.0), 10)
    state = NewtonState(
        3, rng.standard_normal(4), 0.3, rng.standard_normal(4), True, 1e-3, 1.0, memory=memory, average=average,
        base_w=np.ones(4), base_iteration=2, rates=[0.1, 1 / 3], chosen={"plan": {"rows": 9, "figures": {"read": 0.1}}},
    )  # fmt: skip
    same(state, again(state))


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_names_its_state(name):
    assert hasattr(SOLVERS[name].state, "__dataclass_fields__")


def test_what_is_not_plain_data_is_refused():
    with pytest.raises(TypeError):
        to_arrays(Toy(np.ones(1), 0.0, Inner(np.ones(1), 1), row={"when": object()}))


@pytest.mark.parametrize("damage", ["json", "field", "text"])
def test_what_is_no_checkpoint_is_one_line(damage):
    stored = dict(to_arrays(Toy(np.ones(2), 0.0, Inner(np.ones(1), 1))))
    if damage == "json":
        del stored["json"]
    elif damage == "field":
        del stored["w"]
    else:
        stored["json"] = np.frombuffer(b"{no", dtype=np.uint8)
    with pytest.raises(StorageError, match=r"states/000003: not a state of Toy .*start the job anew") as caught:
        from_arrays(Toy, stored, "states/000003")
    assert "\n" not in str(caught.value)
