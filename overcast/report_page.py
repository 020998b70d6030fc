"""The report's page: HTML with its style inside. Everything that comes from a job is escaped."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final

from coordinator.driver import COLD_STARTS
from overcast.summary import asked, measure, quoted_by_phase, words

if TYPE_CHECKING:
    from overcast.report import Story

MOST_ROWS: Final = 400  # of the history: more are cut out of its middle
_PLAN: Final = {  # fields of `coordinator.solvers.costs.Plan`, with their units
    "what": "form of the Hessian model",
    "columns": "columns of the model",
    "rows": "rows of the sketch (0: none)",
    "hashes": "non-zeros a column of the sketch",
    "predicted": "predicted seconds to the tolerance",
    "figures": "seconds of one",
}

_CSS: Final = """
:root { color-scheme: light dark; --back: #fbfbfa; --card: #fff; --ink: #1d2126; --dim: #5d6670; --line: #dfe2e6;
  --faint: #00000018; --good: #1e7d4f; --bad: #c0362c; --warn: #9a6700; --run: #2b6cb0; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --card: #1c2024; --ink: #e4e7ea; --dim: #9aa4ae;
  --line: #32383e; --faint: #ffffff22; --good: #58c48d; --bad: #f0857b; --warn: #e3b341; --run: #79b8ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1.2rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .7rem; }
p { margin: .3rem 0 .8rem; color: var(--dim); max-width: 75ch; }
.badge { display: inline-block; font-size: .85rem; font-weight: 600; padding: .1rem .6rem; border-radius: 1rem;
  border: 1px solid currentColor; vertical-align: .2rem; margin-left: .5rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); } .run { color: var(--run); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile span { color: var(--dim); font-size: .85rem; }
.card { overflow-x: auto; }
svg { display: block; width: 100%; height: auto; min-width: 620px; }
svg text { font-family: system-ui, sans-serif !important; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; vertical-align: top; border-bottom: 1px solid var(--line); }
td table td, td table th { border-bottom: none; padding-top: 0; }
th { font-weight: 600; color: var(--dim); white-space: nowrap; }
td { overflow-wrap: anywhere; }
tr:last-child > td, tr:last-child > th { border-bottom: none; }
.history td, .history th { text-align: right; white-space: nowrap; }
.scroll { max-height: 28rem; overflow: auto; }
.scroll thead th { position: sticky; top: 0; background: var(--card); }
details { margin-top: .8rem; } summary { cursor: pointer; color: var(--dim); }
footer { margin-top: 3rem; color: var(--dim); font-size: .85rem; }
"""


def page(story: Story, plots: Mapping[str, str]) -> str:
    """The whole page."""
    parts = [_head(story), _tiles(story), _summary(story)]
    if "convergence" in plots:
        text = f"The dashed line is the tolerance, {story.tol:g}." if story.tol is not None else ""
        parts.append(_section("Convergence", text, f'<div class="card">{plots["convergence"]}</div>'))
    if "timeline" in plots:
        parts.append(_section("Tasks", _of_tasks(story), f'<div class="card">{plots["timeline"]}</div>'))
    if story.phases:
        parts.append(_section("Phases", _of_cost(story), f'<div class="card">{_rows(_phases(story))}</div>'))
    if "split" in plots:
        parts.append(_section("Where the time went", "", f'<div class="card">{plots["split"]}</div>'))
    chosen = story.result.chosen if story.result is not None else {}
    if chosen:
        text = "What the solver chose, and the figures that it went by."
        parts.append(_section("Choices", text, f'<div class="card">{_choices(chosen)}</div>'))
    parts.append(_section("Settings", "", f'<div class="card">{_value(_settings(story))}{_profile(story)}</div>'))
    if story.events:
        parts.append(_section("History", "", f'<div class="card scroll">{_history(story.events)}</div>'))
    title = escape(f"Overcast: job {story.spec.id}")
    foot = escape(f"Written {time.strftime('%Y-%m-%d %H:%M')} by overcast {story.spec.version}")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + f"\n<footer>{foot}</footer>\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, text: str, body: str) -> str:
    said = f"<p>{escape(text)}</p>" if text else ""
    return f"<section><h2>{escape(title)}</h2>{said}{body}</section>"


def _head(story: Story) -> str:
    status, result = story.status, story.result
    word: str = status.state
    tone = {"done": "good", "failed": "bad", "running": "run", "queued": "run"}.get(word, "warn")
    if result is not None and status.state == "done":
        word, tone = ("converged", "good") if result.converged else ("not converged", "warn")
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(story.spec.created))
    loss = story.spec.problem.get("loss", story.spec.problem.get("kind"))
    name = loss.get("name") if isinstance(loss, Mapping) else loss
    text = f"{name} on {story.spec.data} by {story.spec.solver}, submitted {when}"
    return (
        f'<header><h1>{escape(story.spec.id)} <span class="badge {tone}">{escape(word)}</span></h1>'
        f"<p>{escape(text)}</p></header>"
    )


def _tiles(story: Story) -> str:
    result, status = story.result, story.status
    tiles = [("iterations", str(status.iteration if result is None else result.n_iter_))]
    if result is not None:
        tiles.append(("seconds", f"{result.seconds.get('total', 0.0):.2f}"))
        tiles.append(("passes over the data", f"{result.passes:g}"))
    objective = status.objective if result is None else result.objective
    relative = status.relative if result is None else result.relative
    if status.spent:
        tiles.append(("dollars", f"{status.spent:.4g}"))
    if objective is not None:
        tiles.append(("objective", f"{objective:.6g}"))
    if relative is not None:
        tiles.append((measure(story.spec.solver), f"{relative:.1e}"))
    body = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in tiles)
    return f'<div class="tiles">{body}</div>'


def _summary(story: Story) -> str:
    if story.result is None:
        return _section(
            "Status", "", f'<div class="card">{_value({"message": story.status.message or "none yet"})}</div>'
        )
    return _section("Result", "", f'<div class="card">{_value(words(story.result, story.spec))}</div>')


def _of_tasks(story: Story) -> str:
    marks = [bar.mark for bar in story.bars]
    said = [f"{len(marks):,} task attempts"]
    names = {
        "straggler": ("straggler", "stragglers"),
        "retry": ("retry", "retries"),
        "failed": ("failed", "failed"),
        "spare": ("spare copy", "spare copies"),
    }
    counts = {mark: marks.count(mark) for mark in names}
    said += [f"{count:,} {names[mark][count != 1]}" for mark, count in counts.items() if count]
    text = ", ".join(said) + "."
    if "straggler" in marks:
        text += " A straggler took over twice the median of its phase, and over 10 ms more."
    if cold := sum(bar.cold for bar in story.bars):
        text += f" {cold:,} {'was a cold start' if cold == 1 else 'were cold starts'}."
    return text


def _of_cost(story: Story) -> str:
    """What was spent beside what was quoted."""
    if not story.status.spent:
        return ""
    tasks = sum(one.dollars + one.starting for one in story.phases)
    text = f"Spent ${story.status.spent:.6f}, of which on tasks ${tasks:.6f}"
    if story.quote is not None:
        text += f"; quoted ${story.quote['dollars']:.6f}, at prices of {story.quote['prices_of']}"
    return text + "."


def _phases(story: Story) -> list[dict[str, Any]]:
    """What each kind of phase took; columns in which all is nought are left out."""
    table: list[dict[str, Any]] = []
    for one in story.phases:
        read = one.hits + one.misses
        row: dict[str, Any] = {"phase": one.kind, "runs": one.runs, "attempts": one.attempts}
        row |= {"stragglers": one.stragglers, "retries": one.retries, "failed": one.failed, "cold starts": one.cold}
        row |= {"blocks kept": f"{one.hits / read:.0%}" if read else ""}
        row |= {"MB in": round(one.bytes_in / 1e6, 2), "MB out": round(one.bytes_out / 1e6, 2)}
        row |= {"seconds": round(one.busy, 3), "longest": round(one.longest, 3)}
        row |= {"starting": round(one.init, 3), "fetching": round(one.get, 3)}
        row |= {"computing": round(one.compute, 3), "storing": round(one.put, 3)}
        row |= {"spent $": f"{one.dollars:.6f}" if one.dollars else ""}
        table.append(row)
    if starting := sum(one.starting for one in story.phases):
        table.append({"phase": COLD_STARTS, "spent $": f"{starting:.6f}"})
    quoted = {} if story.quote is None else quoted_by_phase(story.quote)
    for row in table:
        dollars = quoted.pop(row["phase"], None)
        row["quoted $"] = "" if dollars is None else f"{dollars:.6f}"
    table += [{"phase": name, "quoted $": f"{dollars:.6f}"} for name, dollars in quoted.items()]
    used = [name for name in table[0] if any(row.get(name) for row in table)]
    return [{name: row[name] for name in used if name in row} for row in table]


def _choices(chosen: Mapping[str, Any]) -> str:
    """The choices with units, and the sketches, which may be many, folded away."""
    shown: dict[str, Any] = {}
    for key, value in chosen.items():
        if key == "plan":
            shown |= {_PLAN.get(name, name): figure for name, figure in value.items() if name != "strategy"}
        elif key != "sketches":
            shown[key] = value
    sketches = chosen.get("sketches") or []
    if not sketches:
        return _value(shown)
    text = "1 sketch" if len(sketches) == 1 else f"{len(sketches):,} sketches"
    return f"{_value(shown)}<details><summary>{text}</summary>{_value(sketches[:MOST_ROWS])}</details>"


def _settings(story: Story) -> dict[str, Any]:
    spec = story.spec
    out: dict[str, Any] = {"data": spec.data, **asked(spec.problem), "solver": spec.solver, **spec.settings}
    out |= {"workers": spec.workers or "as many as there are", "policy": spec.policy, "start": spec.start}
    return {key: value for key, value in out.items() if value is not None}


def _profile(story: Story) -> str:
    if story.spec.profile is None:
        return ""
    text = "rates of the machine that choices stand on"
    return f"<details><summary>{text}</summary>{_value(story.spec.profile)}</details>"


def _value(value: Any) -> str:
    """A plain value as HTML; mappings and lists of mappings as tables."""
    if isinstance(value, Mapping):
        rows = [f"<tr><th scope='row'>{escape(str(k))}</th><td>{_value(v)}</td></tr>" for k, v in value.items()]
        return f"<table>{''.join(rows)}</table>" if rows else "none"
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, Mapping) for item in value):
            return _rows([dict(item) for item in value])
        return ", ".join(_value(item) for item in value) if value else "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return escape(f"{value:.6g}" if isinstance(value, float) else str(value))


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{_value(row[name]) if name in row else ''}</td>" for name in names) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _history(events: Sequence[Mapping[str, Any]]) -> str:
    rows: list[dict[str, Any]] = []
    for event in events:
        row = {key: value for key, value in event.items() if key != "arrivals"}
        arrivals = event.get("arrivals") or {}
        if arrivals:
            row["arrivals"] = "; ".join(f"{name}: {len(used)}" for name, used in arrivals.items())
        rows.append(row)
    if len(rows) > MOST_ROWS:
        half = MOST_ROWS // 2
        rows = [*rows[:half], {"iteration": f"{len(rows) - 2 * half} left out"}, *rows[-half:]]
    return _rows(rows).replace("<table>", '<table class="history">', 1)
