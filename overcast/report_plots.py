"""The report's plots, as SVG that takes its text colour from the page and needs nothing from outside."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from overcast.summary import measure

if TYPE_CHECKING:
    from overcast.report import Bar, Story

INK: Final = "#010203"  # stands for the page's text colour
FAINT: Final = "#010204"  # the same, faint
COLOURS: Final = ("#4c8dd6", "#e08a3c", "#4faa6b", "#b56bc9", "#c9a227", "#3fb0b8", "#c9708f", "#7d8597")
BAD: Final = "#d9413a"
GREY: Final = "#9aa0a6"
COLD: Final = "#3aa7e0"
PIXELS: Final = 1000  # the timeline joins bars that lie closer together than one in so many
_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def plots(story: Story) -> dict[str, str]:
    """SVG by name: "convergence", "timeline" and "split"; those for which there are no figures are left out."""
    drawn = {}
    with mpl.rc_context(_STYLE):
        if story.events:
            drawn["convergence"] = _svg(_convergence(story), "c", "Convergence: " + _said(story))
        if story.bars:
            title = f"Timeline of {len(story.bars)} task attempts in {len({b.worker for b in story.bars})} lanes"
            drawn["timeline"] = _svg(_timeline(story), "t", title)
        if story.result is not None and story.result.seconds:
            drawn["split"] = _svg(_split(story), "s", "Seconds by kind of work")
    return drawn


def _said(story: Story) -> str:
    first, last = story.events[0], story.events[-1]
    return (
        f"{measure(story.spec.solver)} from {first['relative']:.2g} to {last['relative']:.2g} "
        f"in {last['iteration']} iterations and {last['seconds']:.2f} seconds"
    )


def _convergence(story: Story) -> Figure:
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    rows = story.events
    iterations = [row["iteration"] for row in rows]
    seconds = [row["seconds"] for row in rows]
    relative = [row["relative"] if _positive(row["relative"]) else math.nan for row in rows]
    size = 4 if len(rows) <= 60 else 2
    strategies = list(dict.fromkeys(str(row["strategy"]) for row in rows if row.get("strategy")))
    for axes, x, label in ((left, iterations, "iteration"), (middle, seconds, "seconds")):
        axes.plot(x, relative, color=GREY, linewidth=1.2)
        axes.plot(x[:1], relative[:1], "o", ms=size, color=GREY)
        if strategies:
            for name, colour in zip(strategies, _cycle(len(strategies)), strict=True):
                some = [i for i, row in enumerate(rows) if row.get("strategy") == name]
                axes.plot([x[i] for i in some], [relative[i] for i in some], "o", ms=size, color=colour, label=name)
        else:
            axes.plot(x, relative, "o", ms=size, color=COLOURS[0])
        if any(_positive(value) for value in relative):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        if story.tol is not None:
            axes.axhline(story.tol, color=BAD, linewidth=1, linestyle="--")
        axes.set_xlabel(label)
        axes.set_title(measure(story.spec.solver))
    if strategies:
        left.legend(fontsize=8.5)
    right.plot(iterations, [row["objective"] for row in rows], "o-", ms=0.75 * size, color=COLOURS[0])
    right.set_xlabel("iteration")
    right.set_title("objective")
    return figure


def _timeline(story: Story) -> Figure:
    bars = story.bars
    workers = sorted({bar.worker for bar in bars}, key=lambda w: (len(w), w))
    kinds = list(dict.fromkeys(bar.kind for bar in bars))
    lane = {worker: i for i, worker in enumerate(workers)}
    end = max(bar.end for bar in bars)
    figure = Figure(figsize=(11, 1.3 + 0.32 * min(len(workers), 40)), layout="constrained")
    axes = figure.subplots()
    drawn = _joined(bars, end / PIXELS)
    colours = dict(zip(kinds, _cycle(len(kinds)), strict=True))
    width = 14 if len(workers) <= 12 else max(2.0, 168 / len(workers))
    for kind in kinds:
        _lanes(
            axes, [b for b in drawn if b.kind == kind and b.mark not in {"failed", "spare"}], lane, colours[kind], width
        )
    _lanes(axes, [b for b in drawn if b.mark == "spare"], lane, GREY, width)
    _lanes(axes, [b for b in drawn if b.mark == "failed"], lane, BAD, width)
    keys: list[Any] = [Patch(color=colours[kind], label=kind) for kind in kinds]
    if any(bar.mark == "spare" for bar in bars):
        keys.append(Patch(color=GREY, label="spare copy"))
    if any(bar.mark == "failed" for bar in bars):
        keys.append(Patch(color=BAD, label="failed"))
    for mark, sign, size in (("straggler", "v", 5), ("retry", "X", 6)):
        some = [bar for bar in bars if bar.mark == mark]
        if some:
            shown = sorted(some, key=lambda bar: bar.start - bar.end)[:60]
            x, y = [(bar.start + bar.end) / 2 for bar in shown], [lane[bar.worker] - 0.42 for bar in shown]
            (line,) = axes.plot(x, y, sign, ms=size, color=BAD, label=f"{mark} ({len(some)})", clip_on=False)
            keys.append(line)
    if cold := [bar for bar in bars if bar.cold]:
        x, y = [bar.start for bar in cold], [lane[bar.worker] + 0.3 for bar in cold]
        (line,) = axes.plot(x, y, "*", ms=5, color=COLD, label=f"cold start ({len(cold)})", clip_on=False)
        keys.append(line)
    for at in story.restarts:
        axes.axvline(at, color=INK, linestyle=":", linewidth=1)
        axes.annotate("resumed", (at, -0.6), fontsize=8, ha="left", va="bottom", annotation_clip=False)
    names = [f"worker {worker}" if worker.isdigit() else worker for worker in workers]
    ticks = range(0, len(workers), 1 + len(workers) // 41)
    axes.set_yticks(ticks, [names[i] for i in ticks])
    axes.set_ylim(len(workers) - 0.4, -0.7)
    axes.set_xlim(0, end)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("seconds since the job began" if not story.restarts else "seconds of running")
    figure.legend(handles=keys, loc="outside upper left", ncols=min(len(keys), 7), fontsize=9)
    return figure


def _lanes(axes: Any, bars: Sequence[Bar], lane: dict[str, int], colour: str, width: float) -> None:
    segments = [[(bar.start, lane[bar.worker]), (bar.end, lane[bar.worker])] for bar in bars]
    axes.add_collection(LineCollection(segments, colors=colour, linewidths=width, capstyle="butt"))


def _joined(bars: Iterable[Bar], gap: float) -> list[Bar]:
    """Bars with neighbours of the same kind and lane joined where nobody could see the gap."""
    out: list[Bar] = []
    newest: dict[tuple[str, str], int] = {}
    for bar in sorted(bars, key=lambda bar: bar.start):
        coloured = bar.mark if bar.mark in {"spare", "failed"} else ""
        key = (bar.worker, bar.kind + coloured)
        at = newest.get(key)
        if at is not None and bar.start - out[at].end <= gap:
            out[at] = replace(out[at], end=max(out[at].end, bar.end))
            continue
        newest[key] = len(out)
        out.append(replace(bar, mark=coloured))
    return out


def _split(story: Story) -> Figure:
    assert story.result is not None
    parts = {name: value for name, value in story.result.seconds.items() if name != "total"}
    rest = story.result.seconds.get("total", 0.0) - sum(parts.values())
    if not story.restarts and rest > 0:
        parts["other"] = rest
    ranked = sorted(parts.items(), key=lambda item: item[1])
    figure = Figure(figsize=(11, 0.8 + 0.34 * len(ranked)), layout="constrained")
    axes = figure.subplots()
    values = [value for _, value in ranked]
    drawn = axes.barh([name for name, _ in ranked], values, color=COLOURS[0], height=0.65)
    total = sum(values) or 1.0
    axes.bar_label(drawn, [f"{value:.3g} s, {value / total:.0%}" for value in values], padding=4, fontsize=9)
    axes.set_xlim(0, 1.15 * max(values, default=1.0) or 1.0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("seconds" if not story.restarts else "seconds of the last run")
    return figure


def _positive(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0


def _cycle(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def _svg(figure: Figure, prefix: str, title: str) -> str:
    """The figure as an element for a page: no header, ids of its own, colours from the page."""
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": prefix}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = text.replace(INK, "currentColor").replace(FAINT, "var(--faint)")
    head = re.match(r'<svg[^>]*viewBox="([^"]+)"[^>]*>', text)
    assert head is not None
    name = f"{prefix}-title"
    start = f'<svg viewBox="{head[1]}" role="img" aria-labelledby="{name}"><title id="{name}">{escape(title)}</title>'
    return start + text[head.end() :]
