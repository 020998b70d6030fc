"""Whether a process still runs, told from /proc: who left a file or a status may have ended."""

from __future__ import annotations

from pathlib import Path


def born(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None when it has ended.

    A pid alone may name another process later (in a restarted container at once); pid and birth together do not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rsplit(")", 1)[1].split()  # the name before may hold anything
    # a zombie has ended: only its parent has not looked yet
    return None if fields[0] == "Z" else int(fields[19])
