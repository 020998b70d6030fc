"""Reports: one page that needs nothing from outside, whatever became of the job."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from coordinator.jobs import JobSpec, Status
from coordinator.runtime import TaskRecord
from overcast import InputError
from overcast.report import Bar, Story, tell, timeline
from overcast.report_page import MOST_ROWS, page
from overcast.report_plots import plots

VOID = {"meta", "link", "img", "br", "hr", "path", "use", "rect", "circle"}


class Page(HTMLParser):
    """Checks that elements are closed in order and notes what is there."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.scripts = 0
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(set(self.ids)) == len(self.ids), "an id is used twice"

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.scripts += tag == "script"
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[name] for name in ("href", "src", "xlink:href") if name in given]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
            self.handle_starttag(tag, attributes)
            self.open.pop()
            self.open.pop()
            return
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def self_contained(text: str) -> Page:
    found = Page(text)
    assert found.scripts == 0
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text), "an address"
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    return found


def test_report_of_a_job_that_is_done(cli, libsvm, tmp_path):
    assert cli("solve", libsvm, "--loss", "logistic", "--l2", "1e-3", "--id", "job-one", "--quiet").code == 0
    path = tmp_path / "page.html"
    ran = cli("report", "latest", "--output", path)
    assert (ran.code, ran.out, ran.err) == (0, f"{path}\n", "")
    text = path.read_text()
    found = self_contained(text)
    assert found.headings == [
        "Result",
        "Convergence",
        "Tasks",
        "Phases",
        "Where the time went",
        "Choices",
        "Settings",
        "History",
    ]
    for word in ("job-one", "converged", "logistic on two", "oversketched-newton", "relative gradient", "worker 0"):
        assert word in text
    assert "seconds since the job began" in text
    assert "The dashed line is the tolerance, 1e-06." in text
    assert text.count("<svg") == 3
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_default_name(cli, libsvm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli("solve", libsvm, "--loss", "logistic", "--l2", "1e-3", "--id", "job-one", "--quiet")
    assert cli("report").out == "report-job-one.html\n"
    assert (tmp_path / "report-job-one.html").exists()


def test_reports_of_jobs_without_a_result(client, arrays, tmp_path):
    queued = client.prepare(arrays, loss="logistic", l2=1e-3, id="job-wait")
    text = queued.report(tmp_path / "a.html").read_text()
    assert self_contained(text).headings == ["Status", "Settings"]
    assert "queued" in text

    def stop(row):
        if row["iteration"] == 2:
            raise ZeroDivisionError("<b>by nought</b>")

    with pytest.raises(ZeroDivisionError):
        client.solve(arrays, loss="logistic", l2=1e-3, id="job-bad", watch=stop)
    text = client.job("job-bad").report(tmp_path / "b.html").read_text()
    assert self_contained(text).headings == ["Status", "Convergence", "Tasks", "Phases", "Settings", "History"]
    assert "failed" in text
    assert "&lt;b&gt;by nought" in text, "what a job says is escaped"
    client.job("job-bad").resume(wait=True)
    told = tell(client.storage, "job-bad")
    stopped = told.events[2]["seconds"]
    assert told.restarts == [stopped]
    assert "resumed" in plots(told)["timeline"]
    assert any(bar.start >= stopped for bar in told.bars)
    assert not any(bar.start < stopped < bar.end for bar in told.bars), "runs lie one behind the other"
    assert told.result is not None
    assert len(told.bars) == len(client.job("job-bad")._store.tasks("job-bad"))


def test_without_matplotlib(client, arrays, monkeypatch):
    client.solve(arrays, loss="logistic", l2=1e-3, id="job-one")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("overcast.report.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"the extra \"report\": pip install 'overcast\[report\]'"):
        client.job("job-one").report()


def record(phase, start, end, fate="used", attempt=1, worker="0"):
    return TaskRecord(phase, 0, attempt, start, end, worker, fate)


def test_timeline_marks():
    records = [record("gradient#1", i, i + 0.1) for i in range(5)]
    records += [record("gradient#1", 5, 5.5), record("gradient#1", 6, 6.1, attempt=2)]
    records += [record("sketch#2", 7, 7.1, "spare"), record("sketch#2", 8, 8.1, "KeyError: gone")]
    bars = timeline(records)
    assert [bar.mark for bar in bars] == [""] * 5 + ["straggler", "retry", "spare", "failed"]
    assert {bar.kind for bar in bars} == {"gradient", "sketch"}


def story(events, bars=(), **more):
    spec = JobSpec("job-one", "d<a>ta", {"loss": "logistic"}, "lbfgs", created=1.0)
    fields = {"status": Status("running", iteration=3, objective=0.1, relative=0.5), "restarts": [], "tol": 1e-6}
    return Story(spec, events=events, bars=list(bars), result=None, **(fields | more))


def event(i, relative):
    return {"iteration": i, "objective": 1.0 / (i + 1), "residual": relative, "relative": relative, "seconds": 0.1 * i}


def test_awkward_figures_are_drawn():
    """Zero, infinite and unknown residuals, one event only, many workers, a long history."""
    odd = [event(0, 1.0), event(1, float("inf")), event(2, float("nan")), event(3, 0.0)]
    for events in (odd, [event(0, 0.0)], [event(0, 1.0)]):
        self_contained(page(story(events), plots(story(events))))
    many = [Bar("gradient", f"w{i}", 0.0, 1.0 + i, "failed" if i % 7 == 0 else "") for i in range(80)]
    long = [event(i, 0.9**i) for i in range(MOST_ROWS + 100)]
    text = page(story(long, many), plots(story(long, many)))
    self_contained(text)
    assert "100 left out" in text
    assert "d&lt;a&gt;ta" in text


def test_equal_stories_give_equal_pages():
    events = [event(i, 0.5**i) for i in range(5)]
    bars = [Bar("gradient", "0", 0.0, 1.0)]
    assert plots(story(events, bars)) == plots(story(events, bars))


def test_plots_take_their_colours_from_the_page():
    drawn = plots(story([event(i, 0.5**i) for i in range(5)], [Bar("gradient", "0", 0.0, 1.0)]))
    assert set(drawn) == {"convergence", "timeline"}
    for svg in drawn.values():
        assert "currentColor" in svg
        assert "var(--faint)" in svg
        assert "#000000" not in svg
        assert 'role="img"' in svg
        assert "<title" in svg


def test_labels_of_the_axes_do_not_overlap():
    """Tick labels of one axis, as drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from overcast import report_plots

    for relative in (0.5, 1e-3):
        events = [event(i, relative**i) for i in range(8)]
        figure = report_plots._convergence(story(events))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        for axes in figure.axes:
            for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
                boxes = [label.get_window_extent(canvas.get_renderer()) for label in labels if label.get_text()]
                boxes = [b for b in boxes if b.width > 0 and axes.get_window_extent().padded(3).overlaps(b.padded(9))]
                for i, box in enumerate(boxes):
                    assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert np.isfinite(figure.get_size_inches()).all()
