"""Predictions of files: read as the training data were, columns by name, and how good they are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from overcast import InputError
from overcast.prediction import Predictions, auc, predict_file, quality
from overcast.store import origin_of

CSV = "colour,size,answer\nred,1,yes\ngreen,2,no\nblue,-1,yes\nred,0.5,yes\ngreen,3,no\nblue,2.5,no\n"


@pytest.fixture
def fitted(client, tmp_path):
    """A model of a table with a text column, and how to predict a file that holds the text given."""
    (tmp_path / "train.csv").write_text(CSV + CSV.split("\n", 1)[1] * 19)
    client.import_data(tmp_path / "train.csv", one_hot=["colour"])
    result = client.solve("train", loss="logistic", l2=1e-2)
    origin = origin_of(client.storage, "train")

    def predict(text, name="new.csv", **given):
        path = tmp_path / name
        path.write_text(text)
        return predict_file(result, path, origin, given)

    return result, predict


def test_rows_in_their_order(fitted):
    _, predict = fitted
    found = predict(CSV)
    assert found.values.tolist() == ["yes", "no", "yes", "yes", "no", "no"]
    assert found.target.tolist() == found.values.tolist()
    assert found.scores.shape == (6, 2)
    assert quality(fitted[0], found) == {"accuracy": 1.0, "base_rate": 0.5, "auc": 1.0}


def test_columns_by_name_and_unseen_values(fitted):
    _, predict = fitted
    whole = predict("colour,size,answer\nred,1,yes\ngreen,2,no\n")
    turned = predict("size,colour,answer\n1,red,yes\n2,green,no\n")
    np.testing.assert_allclose(turned.scores, whole.scores)
    bare = predict("colour,size\nred,1\ngreen,2\n")
    np.testing.assert_allclose(bare.scores, whole.scores)
    assert bare.target is None
    assert quality(fitted[0], bare) == {}
    strange = predict("colour,size\nviolet,1\n")
    none = fitted[0].decision_function(np.array([[0.0, 0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(strange.scores[0, 1], 1 / (1 + np.exp(-none[0])), err_msg="counts for nothing")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour,weight,answer\nred,1,yes\n", "column 'weight' is not one of the model's"),
        ("colour,answer\nred,yes\n", "column 'size' is missing"),
        ("colour,size,answer\nred,big,yes\n", "line 2, column 2"),
        ("", "is empty"),
    ],
)
def test_files_of_another_kind(fitted, text, says):
    with pytest.raises(InputError, match=says):
        fitted[1](text)


def test_libsvm_with_fewer_columns_than_the_model(client, libsvm, tmp_path):
    client.import_data(libsvm, scale="std")
    result = client.solve("two", loss="logistic", l2=1e-3)
    path = tmp_path / "few.libsvm"
    path.write_text("1 1:0.5\n0 8:-2 3:1\n".replace("8:-2 3:1", "3:1 8:-2"))
    found = predict_file(result, path, origin_of(client.storage, "two"), {})
    X = sparse.csr_matrix(([0.5, 1.0, -2.0], [0, 2, 7], [0, 1, 3]), shape=(2, 8))
    np.testing.assert_allclose(found.scores[:, 1], 1 / (1 + np.exp(-result.decision_function(X))))
    path.write_text("1 9:1\n")
    with pytest.raises(InputError, match="index 9 is beyond n_features=8"):
        predict_file(result, path, origin_of(client.storage, "two"), {})


def test_numbers(client, tmp_path):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((200, 3))
    A[:, 2] = A[:, :2] @ [1.0, 2.0] + 0.1 * rng.standard_normal(200)
    np.save(tmp_path / "rows.npy", A)
    client.import_data(tmp_path / "rows.npy")
    result = client.solve("rows", loss="squared")
    found = predict_file(result, tmp_path / "rows.npy", origin_of(client.storage, "rows"), {})
    good = quality(result, found)
    assert good["rmse"] == pytest.approx(np.sqrt(np.mean((found.values - A[:, 2]) ** 2)))
    assert good["r2"] > 0.98
    constant = Predictions(np.ones(3), None, np.ones(3))
    assert np.isnan(quality(result, constant)["r2"])


def test_auc_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    for levels in (2, 5, 1000):
        score = rng.integers(0, levels, 300) / levels
        positive = rng.random(300) < 0.2 + 0.5 * score
        assert auc(score, positive) == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
