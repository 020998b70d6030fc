"""Progress as it comes, on stderr: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Group

    from coordinator.data.importing import Progress

ROWS: Final = 12
EVERY: Final = 0.2  # seconds between plain lines
WINDOW: Final = 10


def eta(rows: Sequence[Mapping[str, Any]], tol: float) -> float | None:
    """Seconds until `relative` reaches `tol`, if its logarithm falls on as it lately did; None: unknown."""
    seen = [
        (float(row["seconds"]), math.log(row["relative"]))
        for row in rows[-WINDOW:]
        if row["relative"] and row["relative"] > 0 and math.isfinite(row["relative"])
    ]
    if len(seen) < 2 or tol <= 0:
        return None
    (before, high), (now, low) = seen[0], seen[-1]
    left = low - math.log(tol)
    if left <= 0:
        return 0.0
    if high <= low or now <= before:
        return None
    return left * (now - before) / (high - low)


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """The figures of one iteration as short texts."""
    return {
        "iteration": str(row["iteration"]),
        "objective": f"{row['objective']:.8g}",
        "relative": f"{row['relative']:.2e}",
        "step": "" if row.get("step") is None else f"{row['step']:.3g}",
        "how": how(row),
        "passes": f"{row.get('passes', 0):g}",
        "seconds": f"{row['seconds']:.2f}",
    }


def how(row: Mapping[str, Any]) -> str:
    """Strategy, sketch size and inner iterations, where a solver says them."""
    words = [str(row["strategy"])] if row.get("strategy") else []
    if row.get("sketch_rows"):
        words.append(f"{row['sketch_rows']:,} sketch rows")
    if row.get("cg"):
        words.append(f"{row['cg']} CG")
    return ", ".join(words)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


class SolveProgress:
    """Shows iterations; call it with each one's figures, inside a `with`.

    Parameters
    ----------
    title : said first.
    tol : the relative gradient (or what `measure` says) that ends the job, for the ETA; None: not known.
    quiet : show nothing.
    """

    def __init__(
        self, title: str, tol: float | None, *, quiet: bool = False, measure: str = "relative gradient"
    ) -> None:
        self.title = title
        self.measure = measure
        self.tol = tol
        self.quiet = quiet
        self.rows: deque[Mapping[str, Any]] = deque(maxlen=max(ROWS, WINDOW))
        self._live: Any = None
        self._shown = 0.0
        self._unsaid: Mapping[str, Any] | None = None

    def __enter__(self) -> SolveProgress:
        if self.quiet:
            return self
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(self._table(), console=Console(stderr=True, highlight=False), refresh_per_second=8)
            self._live.start()
        else:
            self._line(self.title)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.update(self._table())
            self._live.stop()
        elif self._unsaid is not None:
            self._say(self._unsaid)

    def __call__(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)
        if self.quiet:
            return
        if self._live is not None:
            self._live.update(self._table())
            return
        now = time.monotonic()
        self._unsaid = row
        if now - self._shown >= EVERY:
            self._shown = now
            self._say(row)

    def _say(self, row: Mapping[str, Any]) -> None:
        self._unsaid = None
        said = cells(row)
        parts = [f"iteration {said['iteration']}", f"objective {said['objective']}"]
        parts.append(f"{self.measure} {said['relative']}")
        parts += [f"step {said['step']}"] if said["step"] else []
        parts += [said["how"]] if said["how"] else []
        parts.append(f"{said['seconds']} s")
        left = self._eta()
        parts += [f"ETA {duration(left)}"] if left else []
        self._line("  " + ", ".join(parts))

    def _eta(self) -> float | None:
        return None if self.tol is None else eta(list(self.rows), self.tol)

    def _table(self) -> Group:
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        names = ("iteration", "objective", "relative", "step", "how", "passes", "seconds")
        for name in names:
            title = self.measure.replace("relative", "rel.") if name == "relative" else name
            table.add_column(title, justify="left" if name == "how" else "right")
        for row in list(self.rows)[-ROWS:]:
            table.add_row(*(Text(text) for text in cells(row).values()))
        left = self._eta()
        tail = f"  about {duration(left)} to go" if left else ""
        head = Text(f"{self.title}{tail}", style="bold")
        return Group(head, table) if self.rows else Group(head)

    def _line(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


@contextmanager
def import_progress(*, quiet: bool = False) -> Iterator[Callable[[Progress], None] | None]:
    """A bar of bytes read and blocks written on a terminal; nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rows]:,} rows"))
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def report(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, total=None, rows=0)
            bar.update(tasks[progress.stage], completed=progress.done, total=progress.total or None, rows=progress.rows)

        yield report
