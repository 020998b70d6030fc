import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sketches import GroupQuorum, ProductCode, Quorum, Replication, Uncoded

TILES = GroupQuorum(2, ((0, 1), (2, 3), (4, 5)))
CODES = [
    Uncoded(5),
    Quorum(3, 5),
    TILES,
    Replication(3, 2),
    ProductCode(2, 3),
    ProductCode(3, 3, empty=2),
]


def results_of(code, seed=0):
    """Results of all tasks: of a product code, of coded blocks; of replicas, equal for equal blocks."""
    rng = np.random.default_rng(seed)
    if isinstance(code, ProductCode):
        encoded = code.encode([(rng.standard_normal((4, 2)), rng.standard_normal(3)) for _ in range(code.n_blocks)])
        return dict(enumerate(encoded))
    if isinstance(code, Replication):
        blocks = [(rng.standard_normal(3),) for _ in range(code.n_blocks)]
        return {task: blocks[task % code.n_blocks] for task in range(code.n_tasks)}
    return {task: (rng.standard_normal(3),) for task in range(code.n_tasks)}


def equal(left, right, atol=0.0):
    return len(left) == len(right) and all(
        len(a) == len(b) and all(np.allclose(x, y, rtol=0, atol=atol) for x, y in zip(a, b, strict=True))
        for a, b in zip(left, right, strict=True)
    )


def test_uncoded_needs_everything_in_task_order():
    code, results = Uncoded(3), results_of(Uncoded(3))
    assert code.decodable({0, 1, 2})
    assert not code.decodable({0, 2})
    assert equal(code.decode({k: results[k] for k in (2, 0, 1)}), [results[0], results[1], results[2]])


def test_quorum_uses_all_that_arrived():
    code, results = Quorum(2, 4), results_of(Quorum(2, 4))
    assert not code.decodable({3})
    assert code.decodable({3, 1})
    assert equal(code.decode({k: results[k] for k in (3, 0, 1)}), [results[0], results[1], results[3]])


def test_an_incomplete_group_does_not_count():
    results = results_of(TILES)
    assert not TILES.decodable({0, 1, 2, 4})
    assert TILES.decodable({0, 1, 2, 4, 5})
    assert TILES.complete({0, 1, 2, 4, 5}) == (0, 2)
    decoded = TILES.decode({k: results[k] for k in (5, 4, 2, 1, 0)})
    assert equal(decoded, [results[0], results[1], results[4], results[5]])


def test_any_copy_of_a_block_will_do():
    code, results = Replication(3, 2), results_of(Replication(3, 2))
    assert code.n_tasks == 6
    assert not code.decodable({0, 1, 3, 4})
    assert code.decodable({0, 4, 5})
    assert equal(code.decode({k: results[k] for k in (5, 4, 0)}), [results[0], results[1], results[2]])


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_only_exchangeable_results_may_be_dropped(code):
    assert code.exchangeable == isinstance(code, Quorum | GroupQuorum)


@pytest.mark.parametrize("code", CODES, ids=repr)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_more_results_never_undo_decodability(code, data):
    tasks = st.sets(st.integers(0, code.n_tasks - 1))
    done, more = data.draw(tasks), data.draw(tasks)
    assert code.decodable(done | more) or not code.decodable(done)


@pytest.mark.parametrize("code", [code for code in CODES if not code.exchangeable], ids=repr)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_exact_codes_decode_alike_from_any_decodable_subset(code, data):
    results = results_of(code, seed=data.draw(st.integers(0, 99)))
    lost = data.draw(st.sets(st.integers(0, code.n_tasks - 1), max_size=6))
    arrived = {task: results[task] for task in results if task not in lost}
    if code.decodable(arrived.keys()):
        assert equal(code.decode(arrived), code.decode(results), atol=1e-12)
    else:
        with pytest.raises(ValueError, match="cannot decode"):
            code.decode(arrived)


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_decoding_checks_its_results(code):
    results = results_of(code)
    with pytest.raises(ValueError, match="cannot decode"):
        code.decode({})
    for stranger in (-1, code.n_tasks):
        with pytest.raises(ValueError, match=f"got a result for task {stranger}"):
            code.decode(results | {stranger: results[0]})
    assert code.decodable(results.keys() | {code.n_tasks})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uncoded(0), "n_tasks must be"),
        (lambda: Uncoded(2.5), "n_tasks must be"),
        (lambda: Quorum(0, 3), "k must be"),
        (lambda: Quorum(4, 3), "k <= n_tasks"),
        (lambda: GroupQuorum(3, ((0,), (1,))), "k <= number of groups"),
        (lambda: GroupQuorum(1, ((0,), ())), "non-empty"),
        (lambda: GroupQuorum(1, ((0,), (0, 1))), "exactly once"),
        (lambda: GroupQuorum(1, ((0,), (2,))), "exactly once"),
        (lambda: Replication(0, 2), "n_blocks must be"),
        (lambda: Replication(2, 0), "copies must be"),
    ],
)
def test_bad_constructions_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
