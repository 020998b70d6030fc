"""What /proc tells of processes: whether who left a file or a status still runs, and how long this one has run."""

from __future__ import annotations

import os
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


def age() -> float:
    """Seconds since this process began; 0 where that cannot be told."""
    try:
        ticks = born(os.getpid()) or 0
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return max(uptime - ticks / os.sysconf("SC_CLK_TCK"), 0.0)
    except (OSError, ValueError, IndexError):
        return 0.0
