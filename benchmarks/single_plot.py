"""The picture of a single-node run: seconds of every contestant, and how Overcast's strategies get there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = {
    "auto": "#0b3954",
    "metric": "#1f77b4",
    "exact": "#d1495b",
    "pcg": "#2a9d8f",
    "averaged": "#edae49",
    "lbfgs": "#7b5ea7",
}
GREY = "#9aa5b1"


def draw(report: Mapping[str, Any], stem: Path) -> list[Path]:
    """Write STEM.png and STEM.svg; one column for a case."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = {name: case for name, case in report["cases"].items() if case.get("contestants")}
    if not shown:
        return []
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(2, len(shown), figsize=(4.4 * len(shown), 6.4), squeeze=False, layout="constrained")
    for column, (name, case) in enumerate(shown.items()):
        _bars(axes[0, column], name, case, report["limit"])
        _curves(axes[1, column], case, report["tol"])
    return save(figure, stem)


def save(figure: Any, stem: Path) -> list[Path]:
    """Write a figure as STEM.png and STEM.svg, and close it; the files."""
    from matplotlib import pyplot as plt

    files = [stem.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in files:
        figure.savefig(file, dpi=150)
    plt.close(figure)
    return files


def _bars(ax: Any, name: str, case: Mapping[str, Any], limit: float) -> None:
    rows = [(label, c) for label, c in case["contestants"].items() if "skip" not in c]
    ends = [c.get("seconds") or limit for _, c in rows]
    left = 0.4 * min(ends, default=1.0)
    for i, ((label, c), seconds) in enumerate(zip(rows, ends, strict=True)):
        library, method = label.split("/")
        colour = COLOURS.get(method, GREY) if library == "overcast" else GREY
        reached = bool(c.get("reached"))
        ax.barh(
            i, seconds - left, left=left, color=colour if reached else "none", edgecolor=colour,
            hatch=None if reached else "////", height=0.7,
        )  # fmt: skip
        note = f"{seconds:.3g} s" if reached else f"{'over ' if c.get('killed') else ''}{seconds:.3g} s, not reached"
        ax.annotate(note, (seconds, i), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)
    ax.set_yticks(range(len(rows)), [label for label, _ in rows])
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    ax.set_xlim(left, 4 * max(ends, default=1.0))
    ax.set_xlabel("seconds to the tolerance (hatched: not reached)")
    meta = case["meta"]
    ax.set_title(f"({name}) {meta['title']}\n{meta['rows']:,} x {meta['columns']:,}", loc="left", fontsize=9)


def _curves(ax: Any, case: Mapping[str, Any], tol: float) -> None:
    for label, c in case["contestants"].items():
        library, method = label.split("/")
        if library != "overcast" or not c.get("history"):
            continue
        seconds, relative = [row[0] for row in c["history"]], [max(row[1], 1e-16) for row in c["history"]]
        auto = method == "auto"
        colour = COLOURS.get(method, GREY)
        text = "auto (the default)" if auto else method
        ax.plot(seconds, relative, color=colour, lw=2.4 if auto else 1.2, marker="o", ms=4 if auto else 2.5, label=text)
    if not ax.lines:
        ax.axis("off")
        return
    ax.axhline(tol, color="black", lw=0.7, ls=":")
    ax.set_yscale("log")
    ax.set_xlabel("seconds")
    ax.set_ylabel("gradient norm over the first one")
    ax.legend(frameon=False, fontsize=7)
