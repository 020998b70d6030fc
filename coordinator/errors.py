"""The error tree: who is to blame and what to do stands in the message, in one line.

OvercastError                  anything this package refuses or fails at      exit code 1
├── InputError                 the caller's data, options or problem          exit code 2
│   └── UnknownNameError       a name that is in no registry
├── StorageError               the store cannot do what was asked             exit code 1
│   ├── KeyMissingError        no such key
│   ├── DamagedError           an object holds something else than it must
│   └── ConflictError          a create-only key exists, or a state moved on
├── JobError                   the job cannot go on                           exit code 1
│   ├── JobMissingError        no such job                                    exit code 2
│   ├── LeaseLostError         another driver runs the job                    exit code 1
│   ├── CancelledError         the job was cancelled                          exit code 3
│   └── ItemError              a function that was mapped failed on an item
├── CodeRefusedError           a function may not run here, or is not the one that was sent
└── PhaseError                 too few results arrived to decode a phase      exit code 1

Expected numerical ends (not converged, line search failed) are values in a result, never exceptions.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def one_line(said: object, most: int = 500) -> str:
    """What is said (an exception, say) in one line of at most `most` characters; "" when nothing is."""
    return " ".join(str(said).split())[:most]


class OvercastError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line exits with."""

    exit_code = 1


class InputError(OvercastError):
    """Data, options or a problem that cannot be used as given."""

    exit_code = 2


class UnknownNameError(InputError):
    """A name that is in no registry; the message lists the close ones."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        names = sorted(known)
        close = get_close_matches(str(name), names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(names)}"
        super().__init__(f"unknown {kind} {name!r}: {hint}")


class StorageError(OvercastError):
    """The store cannot do what was asked."""


class DamagedError(StorageError):
    """An object holds something else than it must; `args[0]` is its key."""

    def __str__(self) -> str:
        return f"{self.args[0]} is damaged: restore it, or delete the job or data set that it belongs to"


class KeyMissingError(StorageError):
    """No object has this key."""


class ConflictError(StorageError):
    """A create-only key exists already, or a compare-and-swap found another version."""


class JobError(OvercastError):
    """A job that cannot go on."""


class JobMissingError(JobError):
    """No job has this id."""

    exit_code = 2


class LeaseLostError(JobError):
    """Another driver runs the job now: this one has nothing more to do."""


class CancelledError(JobError):
    """The job was cancelled; its best iterate so far is in its result."""

    exit_code = 3


class ItemError(JobError):
    """A function that was mapped over items failed; `index` is the item's position."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class CodeRefusedError(OvercastError):
    """A function of the user's may not run where it was sent, or its bytes are not those that the job's spec names."""


class PhaseError(OvercastError):
    """Too few results arrived for a phase's code to decode."""
