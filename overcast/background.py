"""Jobs away from the caller: in a detached process for a store on disk, in a thread for one in memory.

`python -m overcast.background STORE JOB` runs one job to its end.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import Final

from coordinator.driver import carry_out
from coordinator.errors import JobError, OvercastError
from coordinator.jobs import JobStore
from coordinator.storage import FileStorage, Storage

_threads: Final[dict[tuple[int | str, str], threading.Thread]] = {}


def start_process(storage: FileStorage, job: str, *, allow_code: bool = False) -> None:
    """Run `job` in a process of its own session: what ends this one leaves it alone. Its output is kept in log.txt.

    `allow_code` lets a function that the job brings run there.
    """
    log = storage.path(f"jobs/{job}/log.txt")
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "overcast.background", str(storage.root), job],
        {**os.environ, "OVERCAST_ALLOW_CODE": "1"} if allow_code else os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    # should it end before it says that it runs, everybody can tell from this
    JobStore(storage).update(job, when=("queued",), pid=pid)
    threading.Thread(target=_reap, args=(pid,), name=f"overcast-reap-{pid}", daemon=True).start()


def start_thread(storage: Storage, job: str, *, allow_code: bool = False) -> None:
    """Run `job` in a thread of this process; `allow_code` lets a function that it brings run, too."""
    if thread_runs(storage, job):
        raise JobError(f"job {job!r} runs already: wait for it, or cancel it")
    for key in [key for key, thread in _threads.items() if not thread.is_alive()]:
        del _threads[key]
    thread = threading.Thread(target=_run, args=(storage, job, allow_code), name=f"overcast-job-{job}", daemon=True)
    _threads[_name(storage), job] = thread
    thread.start()


def thread_runs(storage: Storage, job: str) -> bool:
    """Whether a thread of this process runs `job`."""
    thread = _threads.get((_name(storage), job))
    return thread is not None and thread.is_alive()


def last_words(storage: Storage, job: str) -> str:
    """The last line that the job's process has written, or ""."""
    if not isinstance(storage, FileStorage):
        return ""
    try:
        text = storage.path(f"jobs/{job}/log.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text.strip().rsplit("\n", 1)[-1]


def _name(storage: Storage) -> int | str:
    # a thread that runs keeps its storage, so that no other has its id
    return str(storage.root) if isinstance(storage, FileStorage) else id(storage)


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _run(storage: Storage, job: str, allow_code: bool) -> None:
    with suppress(Exception):  # the job's status says what went wrong
        carry_out(storage, job, allow_code=allow_code)


def main(argv: list[str]) -> int:
    """Run the job that the arguments name."""
    root, job = argv
    storage = FileStorage(root)
    try:
        carry_out(storage, job)
    except OvercastError as error:
        sys.stderr.write(f"overcast: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
