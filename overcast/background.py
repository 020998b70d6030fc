"""Jobs away from the caller: in a detached process for a store on disk, in a thread for one in memory.

`python -m overcast.background STORE JOB` runs one job to its end.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Final

from coordinator.driver import run_job
from coordinator.errors import JobError, OvercastError
from coordinator.jobs import JobStore
from coordinator.storage import FileStorage, Storage

_threads: Final[dict[tuple[int | str, str], threading.Thread]] = {}
_processes: Final[dict[tuple[str, str], subprocess.Popen[bytes]]] = {}


def start_process(storage: FileStorage, job: str) -> None:
    """Run `job` in a process of its own session: what ends this one leaves it alone. Its output is kept in log.txt."""
    log = storage.path(f"jobs/{job}/log.txt")
    with log.open("ab") as out:
        process = subprocess.Popen(  # noqa: S603  this very interpreter
            [sys.executable, "-m", "overcast.background", str(storage.root), job],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=True,
        )
    _processes[str(storage.root), job] = process


def start_thread(storage: Storage, job: str) -> None:
    """Run `job` in a thread of this process."""
    if thread_runs(storage, job):
        raise JobError(f"job {job!r} runs already: wait for it, or cancel it")
    for key in [key for key, thread in _threads.items() if not thread.is_alive()]:
        del _threads[key]
    thread = threading.Thread(target=_run, args=(storage, job), name=f"overcast-job-{job}", daemon=True)
    _threads[_name(storage), job] = thread
    thread.start()


def thread_runs(storage: Storage, job: str) -> bool:
    """Whether a thread of this process runs `job`."""
    thread = _threads.get((_name(storage), job))
    return thread is not None and thread.is_alive()


def died_early(storage: Storage, job: str) -> str | None:
    """What a process of ours said that ended before its job began, else None."""
    if not isinstance(storage, FileStorage):
        return None
    process = _processes.get((str(storage.root), job))
    if process is None or process.poll() is None or JobStore(storage).status(job).state != "queued":
        return None
    log = storage.path(f"jobs/{job}/log.txt")
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else f"exit code {process.returncode}"


def reap(storage: Storage, job: str) -> None:
    """Let go of an ended process of ours."""
    if isinstance(storage, FileStorage):
        process = _processes.get((str(storage.root), job))
        if process is not None and process.poll() is not None:
            del _processes[str(storage.root), job]


def _name(storage: Storage) -> int | str:
    # a thread that runs keeps its storage, so that no other has its id
    return str(storage.root) if isinstance(storage, FileStorage) else id(storage)


def _run(storage: Storage, job: str) -> None:
    try:
        run_job(storage, job)
    except OvercastError:
        return  # its status says so
    except Exception as error:  # noqa: BLE001  kept for whoever asks for the result
        JobStore(storage).update(job, state="failed", message=f"{type(error).__name__}: {error}")


def main(argv: list[str]) -> int:
    """Run the job that the arguments name."""
    root, job = argv
    storage = FileStorage(root)
    try:
        run_job(storage, job)
    except OvercastError as error:
        print(f"overcast: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
