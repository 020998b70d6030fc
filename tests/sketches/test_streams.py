import numpy as np
import pytest

from sketches import stream


def test_the_same_name_gives_the_same_bits():
    first = stream(7, 1, 2, 3).random(100)
    stream(7, 1, 2, 4).random(5)
    assert np.array_equal(first, stream(7, 1, 2, 3).random(100))


def test_different_names_give_different_bits():
    names = [(0,), (1,), (0, 0), (0, 1), (0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0), (2**40,), (0, 2**32 - 1)]
    draws = {stream(*name).bytes(16) for name in names}
    assert len(draws) == len(names)


def test_neighbouring_streams_are_uncorrelated():
    draws = np.array([stream(3, k).standard_normal(2000) for k in range(40)])
    correlation = np.corrcoef(draws)[~np.eye(40, dtype=bool)]
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)


@pytest.mark.parametrize("name", [(-1,), (2**128,), (0, -1), (0, 2**32), (0.5,), (0, "a")])
def test_names_that_would_collide_are_refused(name):
    with pytest.raises(ValueError, match="stream"):
        stream(*name)
