"""The demo, at a small size: figures that make sense and a report."""

from __future__ import annotations

import json

import numpy as np

from overcast.flights import flights, hold_out


def test_flights():
    X, y, names = flights()
    assert X.shape == (327_346, 192)
    assert len(names) == 192
    assert len(set(names)) == 192
    assert np.all(np.diff(X.indptr) == 7), "one of each group"
    assert 0.2 < y.mean() < 0.3
    assert X.sum(axis=0).min() > 0


def test_hold_out_parts_the_rows():
    train, test = hold_out(1000)
    assert len(test) == 200
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(1000))
    assert np.array_equal(hold_out(1000)[1], test)


def test_demo(cli, client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = cli("demo", "--rows", "20000", "--json", "--quiet")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert found["converged"]
    assert found["held_out"] == 4000
    assert found["auc"] > 0.65
    assert found["accuracy"] > found["base_rate"] - 0.01
    assert (tmp_path / "overcast-demo.html").exists()
    ran = cli("demo", "--rows", "5000", "--tol", "1e-4", "--output", tmp_path / "again.html")
    assert ran.code == 0
    for word in ("held-out flights", "accuracy", "AUC", "converged", "again.html"):
        assert word in ran.out
    assert "reading the flights" in ran.err
    assert len(client.jobs()) == 2
    assert client.data() == ("flights",)
