import numpy as np
import pytest

from coordinator.data.blocks import memory_blocks
from coordinator.errors import InputError, UnknownNameError
from coordinator.losses import Huber, Logistic
from coordinator.problem import Penalty, problem_from_spec
from coordinator.storage import MemoryStorage


def data(classes=(0.0, 1.0, 4.0), d=3):
    return memory_blocks(MemoryStorage(), "toy", np.zeros((6, d)), np.zeros(6), classes=classes)


def test_shapes():
    for intercept, rows in ((True, 4), (False, 3)):
        problem = problem_from_spec({"loss": "softmax", "intercept": intercept, "l2": 0.5, "l1": 2.0}, data())
        assert (problem.n_outputs, problem.n_rows_of_w, problem.n_parameters) == (3, rows, 3 * rows)
        for vector, value in ((problem.ridge(), 0.5), (problem.lasso(), 2.0)):
            expected = np.full((rows, 3), value)
            expected[3:] = 0  # intercepts are free
            assert np.array_equal(vector, expected.ravel())


def test_a_spec_reads_back():
    spec = {"loss": {"name": "huber", "delta": 0.7}, "l1": 0.1, "l2": 0.2, "intercept": False}
    problem = problem_from_spec(spec, data(None))
    assert problem.loss == Huber(0.7)
    assert problem_from_spec(problem.spec(), problem.data) == problem
    assert problem.task_params()["classes"] is None
    weighed = problem_from_spec({"loss": "softmax", "class_weight": {4: 2, "1": 0.5}}, data())
    assert weighed.class_weight == (1.0, 0.5, 2.0)
    assert problem_from_spec(weighed.spec(), weighed.data) == weighed
    assert weighed.task_params()["classes"] == [0, 1, 4]


def test_balanced_classes():
    counts = {"0.0": 10, "1.0": 20, "4.0": 30}
    problem = problem_from_spec({"loss": "softmax", "class_weight": "balanced"}, data(), counts)
    np.testing.assert_allclose(problem.class_weight, [2, 1, 2 / 3])
    text = problem_from_spec({"loss": Logistic(), "class_weight": {"b": 3}}, data(("a", "b")))
    assert text.class_weight == (1.0, 3.0)


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        ({"los": "softmax"}, UnknownNameError, "unknown problem field 'los': did you mean 'loss'"),
        ({"l2": 1}, InputError, "the problem has no loss: give one"),
        ({"loss": "logistic"}, InputError, "the target of data 'toy' has 3 classes, loss 'logistic' takes two"),
        ({"loss": "softmax", "intercept": 1}, InputError, "intercept must be true or false, not 1"),
        ({"loss": "softmax", "l2": -1}, InputError, "l2 must be a number >= 0, not -1"),
        ({"loss": "softmax", "l1": "1"}, InputError, "l1 must be a number >= 0, not '1'"),
        ({"loss": "softmax", "l1": np.inf}, InputError, "l1 must be a number >= 0, not inf"),
        ({"loss": "softmax", "l1": True}, InputError, "l1 must be a number >= 0, not True"),
        ({"loss": "softmax", "class_weight": "balanced"}, InputError, "'balanced' needs the class counts"),
        ({"loss": "softmax", "class_weight": [1, 2]}, InputError, "class_weight has 2 entries for 3 classes"),
        ({"loss": "softmax", "class_weight": {7: 1}}, UnknownNameError, "unknown class in class_weight 7"),
        ({"loss": "softmax", "class_weight": [1, -1, 1]}, InputError, "must be finite and >= 0"),
        ({"loss": "softmax", "class_weight": [0, 0, 0]}, InputError, "not all zero"),
        ({"loss": "softmax", "class_weight": {0: "x"}}, InputError, "class weights must be numbers"),
        ({"loss": "softmax", "class_weight": 3}, InputError, "must be 'balanced', a list or a map of classes, not 3"),
        ({"loss": "softmax", "class_weight": "even"}, InputError, "a list or a map of classes, not 'even'"),
        ({"loss": "squared", "class_weight": [1, 1, 1]}, InputError, "loss 'squared' has none: use sample weights"),
    ],
)
def test_specs_that_are_refused(spec, kind, words):
    with pytest.raises(kind) as caught:
        problem_from_spec(spec, data())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_penalty_is_checked_when_made():
    with pytest.raises(InputError, match="l2 must be a number"):
        Penalty(l2=float("nan"))
