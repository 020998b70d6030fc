"""Progress: what lines and tables say, and how long it is still to take."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from coordinator.data.importing import Progress
from overcast import progress as module
from overcast.progress import SolveProgress, cells, duration, eta, how, import_progress


def row(i, relative, seconds=None, **more):
    return {
        "iteration": i,
        "objective": 0.5,
        "relative": relative,
        "seconds": float(i) if seconds is None else seconds,
        "passes": 2 * i,
        **more,
    }


def test_eta_follows_the_logarithm():
    rows = [row(i, 10.0**-i) for i in range(4)]  # a digit a second
    assert eta(rows, 1e-6) == pytest.approx(3.0)
    assert eta(rows, 1e-2) == 0.0
    assert eta([row(i, 0.1 ** (i / 10)) for i in range(30)], 1e-3) == pytest.approx(1.0), "of the last few only"


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(0, 1.0)],
        [row(0, 1.0), row(1, 1.0)],
        [row(0, 0.1), row(1, 1.0)],
        [row(0, 1.0), row(0, 0.5)],
        [row(0, float("nan")), row(1, 0.0)],
        [row(0, float("inf")), row(1, 0.5)],
    ],
)
def test_eta_unknown(rows):
    assert eta(rows, 1e-6) is None


def test_words():
    assert how(row(1, 0.1)) == ""
    assert how(row(1, 0.1, strategy="pcg", sketch_rows=12345, cg=7)) == "pcg, 12,345 sketch rows, 7 CG"
    assert cells(row(3, 0.01234, step=0.5))["relative"] == "1.23e-02"
    assert [duration(s) for s in (0.04, 59.9, 90, 7200)] == ["0.0 s", "59.9 s", "1.5 min", "2.0 h"]


def test_lines_where_nobody_looks(capsys, monkeypatch):
    clock = iter([100.0, 100.01, 100.02, 101.0, 101.01])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with SolveProgress("job one", 1e-6) as show:
        for i in range(5):
            show(row(i, 10.0**-i, step=1.0, strategy="metric"))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "job one"
    numbers = [line.split(",")[0] for line in said[1:]]
    assert numbers == ["  iteration 0", "  iteration 3", "  iteration 4"], "not all, but the last"
    assert "objective 0.5, relative gradient 1.00e-03, step 1, metric, 3.00 s, ETA 3.0 s" in said[2]


def test_quiet(capsys):
    with SolveProgress("job one", 1e-6, quiet=True) as show:
        show(row(0, 1.0))
    with import_progress(quiet=True) as report:
        assert report is None
    assert capsys.readouterr().err == ""


def test_the_table_of_a_terminal():
    show = SolveProgress("job one: lbfgs on rows", 1e-6)
    assert "job one" in drawn(show)
    for i in range(30):
        show.rows.append(row(i, 10.0 ** (-i / 10), step=1.0, strategy="averaged", sketch_rows=1230))
    text = drawn(show)
    lines = text.splitlines()
    assert "job one: lbfgs on rows  about 31.0 s to go" in text
    assert sum("averaged, 1,230 sketch rows" in line for line in lines) == 12, "the newest only"
    assert max(len(line.rstrip()) for line in lines) <= 100
    for name in ("iteration", "objective", "rel. gradient", "step", "how", "passes", "seconds"):
        assert name in text


def drawn(show: SolveProgress, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(show._table())
    return out.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_live_on_a_terminal(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with SolveProgress("job one", 1e-6) as show:
        show(row(0, 1.0))
        show(row(1, 0.1))
    assert "1.00e-01" in screen.getvalue()
    with import_progress() as report:
        assert report is not None
        report(Progress("read", 10, 100, 1234))
        report(Progress("write", 10, 0, 1234))
    assert "1,234 rows" in screen.getvalue()
