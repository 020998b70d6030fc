import numpy as np
import pytest

from sketches import CountSketch, OverSketch, stream

SKETCH = OverSketch(block=5, n=3, extra=2)


def draws(rows, t):
    return {k: SKETCH.draw(k, rows, stream(1, t, k)) for k in range(SKETCH.drawn)}


@pytest.mark.parametrize("lost", [(), (0,), (2,), (1, 4)])
def test_unbiased_whichever_blocks_are_lost(lost):
    """2000 draws, five standard errors."""
    squares = []
    for t in range(2000):
        blocks = {k: part for k, part in draws(np.eye(6), t).items() if k not in lost}
        S = SKETCH.combine(blocks)
        squares.append(S.T @ S)
    deviation = np.std(squares, axis=0, ddof=1) / np.sqrt(len(squares))
    assert np.all(np.abs(np.mean(squares, axis=0) - np.eye(6)) <= 5 * deviation + 1e-12)


def test_zeros_for_the_missing_blocks_are_biased():
    """Leaving one of three blocks zero and dividing by three all the same gives 2/3 of the identity."""
    mean = np.zeros((6, 6))
    for t in range(1000):
        blocks = draws(np.eye(6), t)
        zeroed = np.concatenate([blocks[0], blocks[1], np.zeros_like(blocks[2])]) / np.sqrt(3)
        mean += zeroed.T @ zeroed / 1000
    assert np.diag(mean) == pytest.approx(2 / 3, abs=1e-12)


def test_every_block_that_arrived_is_used():
    rows = stream(2).standard_normal((40, 4))
    blocks = draws(rows, 0)
    combined = SKETCH.combine(blocks)
    assert combined.shape == (25, 4)
    for k, part in enumerate(np.split(combined, 5)):
        assert np.allclose(part * np.sqrt(5), blocks[k], rtol=0, atol=1e-14)


def test_order_of_arrival_does_not_matter():
    blocks = draws(stream(2).standard_normal((40, 4)), 0)
    backwards = {k: blocks[k] for k in reversed(blocks)}
    assert np.array_equal(SKETCH.combine(blocks), SKETCH.combine(backwards))
    assert np.array_equal(SKETCH.combine(blocks), SKETCH.combine([blocks[k] for k in range(5)]))


def test_averaged_grams_are_the_gram_of_the_stack():
    blocks = draws(stream(2).standard_normal((40, 4)), 0)
    del blocks[1]
    stack = SKETCH.combine(blocks)
    average = SKETCH.gram_average({k: part.T @ part for k, part in blocks.items()})
    assert np.allclose(average, stack.T @ stack, rtol=0, atol=1e-13)


def test_slabs_of_columns_share_their_draw():
    rows = stream(3).standard_normal((30, 6))
    whole = SKETCH.draw(1, rows, stream(4))
    slabs = [SKETCH.draw(1, np.ascontiguousarray(rows[:, c : c + 2]), stream(4)) for c in (0, 2, 4)]
    assert np.array_equal(whole, np.hstack(slabs))


def test_float32_stays_float32():
    rows = stream(5).standard_normal((30, 6)).astype(np.float32)
    blocks = [SKETCH.draw(k, rows, stream(6, k)) for k in range(3)]
    assert SKETCH.combine(blocks).dtype == np.float32
    assert SKETCH.gram_average([part.T @ part for part in blocks]).dtype == np.float64


def test_one_block_is_a_countsketch():
    rows = stream(7).standard_normal((30, 6))
    assert np.array_equal(OverSketch(5, 1).apply(rows, stream(8)), CountSketch(5).apply(rows, stream(8)))


def test_combining_leaves_the_blocks_alone():
    block = np.ones((5, 2))
    SKETCH.combine([block])
    SKETCH.gram_average([block])
    assert np.array_equal(block, np.ones((5, 2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: OverSketch(0, 3), "block must be"),
        (lambda: OverSketch(5, 0), "n must be"),
        (lambda: OverSketch(5, 3, -1), "extra must be"),
        (lambda: SKETCH.draw(5, np.ones((2, 2)), stream(0)), r"index must be in \[0, 5\)"),
        (lambda: SKETCH.combine({}), "between 1 and 5 blocks"),
        (lambda: SKETCH.combine([np.ones((5, 2))] * 6), "between 1 and 5 blocks"),
        (lambda: SKETCH.combine({-1: np.ones((5, 2))}), "index must be"),
        (lambda: SKETCH.combine([np.ones((4, 2))]), "must have 5 rows"),
        (lambda: SKETCH.gram_average({}), "between 1 and 5 blocks"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
