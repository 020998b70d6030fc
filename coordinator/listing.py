"""Lists of jobs, in which one that cannot be read does not hide the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coordinator.errors import DamagedError, JobError, JobMissingError
from coordinator.jobs import JobStore, Status


@dataclass(frozen=True)
class Seen:
    """One line of a list of jobs; `created` in seconds since 1970."""

    id: str
    data: str
    solver: str
    created: float
    status: Status


def list_jobs(
    store: JobStore, most: int | None = None, look: Callable[[str], Status] | None = None
) -> tuple[Seen, ...]:
    """All jobs, or the newest `most`, oldest first; `look` gives the status of one (None: as the store has it).

    One that is damaged or of another version of Overcast stands first, as interrupted, with the reason as its message.
    """
    found = []
    for job in store.ids(most):
        try:
            spec = store.spec(job)
            found.append(Seen(job, spec.data, spec.solver, spec.created, (look or store.status)(job)))
        except JobMissingError:  # deleted meanwhile
            continue
        except (DamagedError, JobError) as error:
            found.append(Seen(job, "", "", 0.0, Status("interrupted", message=str(error))))
    return tuple(sorted(found, key=lambda seen: seen.created))
