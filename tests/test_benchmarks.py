"""Benchmarks run, small, and find what they are there to show."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.e2e
def test_averaging(tmp_path):
    """On 200 columns a Bernoulli draw's weights collapse; data that are not there are left out, with the reason."""
    pytest.importorskip("matplotlib")
    words = ["--small", "--runs", "2", "--sets", "mg,synthetic", "--rows", "5", "--json"]
    words += ["--out", str(tmp_path), "--data", str(tmp_path)]
    command = [sys.executable, "-W", "error", str(ROOT / "benchmarks/averaging.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert "mg_scale.csv.xz is not in" in report["sets"]["mg"]["skip"]
    found = report["sets"]["synthetic"]
    curves = found["curves"]
    assert found["workers"][-1] == 100
    assert curves["bernoulli"]["ess"][-1] < 0.1
    assert curves["determinantal"]["ess"][-1] > 0.5
    assert curves["surrogate"]["trace"][-1] < 0.1 * curves["uniform"]["trace"][-1]
    assert curves["determinantal"]["trace"][-1] < 0.1 * curves["uniform"]["trace"][-1]
    assert json.loads((tmp_path / "averaging-small.json").read_text()) == report
    assert (tmp_path / "averaging-small.png").stat().st_size > 10_000


@pytest.mark.e2e
def test_averaging_solvers_on_one_node(tmp_path):
    """Side by side with the default, when asked for; all reach the tolerance."""
    words = ["--small", "--case", "b-narrow", "--solvers", "overcast/auto,averaging", "--json"]
    words += ["--limit", "120", "--repeats", "1", "--work", str(tmp_path / "work"), "--out", str(tmp_path)]
    command = [sys.executable, str(ROOT / "benchmarks/single_node.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["cases"]["b-narrow"]
    if "skip" in found:
        pytest.skip(found["skip"])
    reached = {name: c.get("reached") for name, c in found["contestants"].items()}
    assert len(reached) == 8
    assert all(reached.values()), reached
