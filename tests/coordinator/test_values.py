import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import arrays as codec
from coordinator import values
from coordinator.errors import InputError, StorageError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


@given(PLAIN)
def test_plain_values_come_back_as_they_were(value):
    data = values.dumps(value)
    assert same(values.loads(data), value)
    assert not values.is_pickled(data)


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i1", "u8", "?", "c16", ">f8"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_arrays_come_back_bit_for_bit(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    back = values.loads(values.dumps({"a": [array]}))["a"][0]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert back.flags.writeable


def test_numpy_numbers_keep_their_type():
    back = values.loads(values.dumps((np.float32(0.1), np.int64(3), np.bool_(True))))
    assert back == (np.float32(0.1), 3, True)
    assert [type(x) for x in back] == [np.float32, np.int64, np.bool_]
    assert math.isnan(values.loads(values.dumps(float("nan"))))


@pytest.mark.parametrize("value", [{1, 2}, object(), {1: 2}, np.array(["a"]), np.array([object()]), range(3)])
def test_other_objects_travel_pickled_and_only_where_asked_for(value):
    with pytest.raises(InputError, match=r"plain data|must be text|cannot"):
        values.dumps([value])
    data = values.dumps([value], pickled=True)
    assert values.is_pickled(data)
    with pytest.raises(InputError, match="result 3 is pickled"):
        values.loads(data, "result 3")
    assert type(values.loads(data, trust=True)[0]) is type(value)


def test_a_value_that_holds_itself_is_refused():
    ring: list = []
    ring.append(ring)
    with pytest.raises(InputError, match="100 deep"):
        values.dumps(ring)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[",
        '{"odd": 1}',
        '{"array": ["0", "|O", [1]]}',
        '{"array": ["0", "<f8", [-1]]}',
        '{"array": ["9", "<f8", [1]]}',
        '{"tuple": 3}',
        '{"bytes": {}}',
        '{"dict": [], "tuple": []}',
        "[" * 5000,
    ],
)
def test_damaged_values_are_refused(text):
    data = codec.encode({"0": np.zeros(9, np.uint8)}, {"json": text})
    with pytest.raises(StorageError, match="not a value"):
        values.loads(data)


def test_what_cannot_be_pickled_is_refused_in_one_line():
    import threading

    with pytest.raises(InputError, match="cannot pickle a lock"):
        values.dumps(threading.Lock(), pickled=True)
    with pytest.raises(StorageError, match="x cannot be unpickled here"):
        values.unpickle(b"cnonexistent_module\nname\n.", "x")
