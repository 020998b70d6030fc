import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.data.numbers import cut


def parse(tokens: list[str]) -> tuple[np.ndarray, np.ndarray]:
    cuts = cut(("\n".join(tokens) + "\n").encode())
    return cuts.floats(*cuts.fields(b"\n"))


DIGITS = st.integers(0, 10**25).map(str)
NUMERALS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "+", "-"]),
        st.one_of(
            DIGITS, st.builds("{}.{}".format, DIGITS, DIGITS), DIGITS.map(".{}".format), DIGITS.map("{}.".format)
        ),
        st.one_of(st.just(""), st.integers(-400, 400).map("e{}".format), st.integers(0, 99).map("E+{:02d}".format)),
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(NUMERALS, min_size=1, max_size=20))
def test_equals_float(tokens):
    values, good = parse(tokens)
    expected = np.array([float(token) for token in tokens])
    assert np.array_equal(good, np.isfinite(expected))
    assert np.array_equal(values[good], expected[good])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
def test_round_trip_of_every_double(numbers):
    values, good = parse([repr(number) for number in numbers])
    assert good.all()
    assert np.array_equal(values, numbers)
    assert np.array_equal(np.signbit(values), np.signbit(numbers))


def test_many_doubles_in_every_notation():
    rng = np.random.default_rng(5)
    x = rng.standard_normal(20_000) * 10.0 ** rng.integers(-30, 30, 20_000)
    for form in ("%r", "%.17g", "%.15g", "%.6e", "%.3f", "%.18e"):
        tokens = [form % v for v in x.tolist()]
        values, good = parse(tokens)
        assert good.all()
        assert np.array_equal(values, np.array(list(map(float, tokens))))


def test_halfway_between_doubles():
    # 2^53 + 1 and neighbours: ties that must go to even, and digits that break the tie
    tokens = ["9007199254740993", "9007199254740995", "900719925474099.3e1", "9007199254740993.0000000001"]
    values, good = parse(tokens)
    assert good.all()
    assert values.tolist() == [float(token) for token in tokens]


@pytest.mark.parametrize(
    "token",
    ["", ".", "-", "+", "--1", "+-1", "1-", "1e", "1e+", "e5", "1.2.3", "1e5.0", "1_0", "nan", "inf", "0x10", "1e5e5",
     "1e2-", ".e1", "-.", "1 2", "abc", "1e400", "-1e999999999999999999999", "１"],
)  # fmt: skip
def test_refuses(token):
    values, good = parse([token, "1"])
    assert good.tolist() == [False, True]
    assert values[1] == 1


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_do_as_float_does(data):
    data = data.replace(b"\n", b"")
    cuts = cut(data + b"\n")
    values, good = cuts.floats(*cuts.fields(b"\n"))
    try:
        expected = float(data.decode("ascii"))
    except ValueError:
        expected = math.nan
    if b"_" in data or data != data.strip():
        expected = math.nan  # `float` takes these, data files do not have them
    assert bool(good[0]) == math.isfinite(expected)
    if good[0]:
        assert values[0] == expected


def test_integers():
    cuts = cut(b"7:1.5:-2::123456789012345678:1234567890123456789\n")
    values, good = cuts.integers(*cuts.fields(b":\n"))
    assert good.tolist() == [True, False, False, False, True, False]
    assert values[[0, 4]].tolist() == [7, 123456789012345678]
