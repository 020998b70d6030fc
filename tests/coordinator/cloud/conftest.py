"""A Lambda in this process: functions whose faults are tables, called in threads over storage in memory or S3."""

import json
import threading

import numpy as np
import pytest

from coordinator.cloud.invoke import Reply
from coordinator.cloud.worker import Environment
from coordinator.s3 import Usage
from coordinator.storage import MemoryStorage
from coordinator.tasks import kernel


class CountedStorage(MemoryStorage):
    """Storage in memory that counts requests as S3 does."""

    def __init__(self):
        super().__init__()
        self.usage = Usage()

    def get_arrays(self, key):
        self.usage.add(reads=1)
        return super().get_arrays(key)

    def put(self, key, data):
        self.usage.add(writes=1, bytes_out=len(data))
        super().put(key, data)

    def list(self, prefix):
        self.usage.add(writes=1)
        return super().list(prefix)

    def __str__(self):
        return "memory"


class FakeLambda:
    """Calls workers; `faults` maps a task's index to what happens to its attempts, in order.

    "ok"; "429", "500": refused; "crash", "timeout", "oom": the process dies; "lost": the connection breaks;
    "junk": an answer that is none; for asynchronous calls also "never" (it does not begin) and "silent" (it begins and
    dies).
    """

    def __init__(self, storage, folder, faults=None, environments=8, functions=("w", "w-large", "w-xlarge")):
        self.storage, self.faults = storage, {k: list(v) for k, v in (faults or {}).items()}
        self.calls, self.running, self.most = [], 0, 0
        self._lock = threading.Lock()
        self._environments = {f: [] for f in functions}
        self._folder = folder

    def __call__(self, function, payload, *, wait, timeout):
        event = json.loads(payload)
        index = event["task"]["params"].get("i", 0)
        with self._lock:
            self.calls.append((function, index, event["attempt"], wait))
            script = self.faults.get(index, [])
            fault = script.pop(0) if script else "ok"
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            return self._reply(function, event, wait, fault)
        finally:
            with self._lock:
                self.running -= 1

    def _reply(self, function, event, wait, fault):
        if fault in {"429", "500"}:
            return Reply(int(fault), b'{"message": "Rate Exceeded."}')
        if fault == "lost":
            raise ConnectionResetError("reset by peer")
        if fault == "404":
            return Reply(404, b'{"Message": "Function not found"}')
        if not wait:
            if fault == "silent":
                self.storage.put(f"{event['key']}.began-{event['attempt']}", b"")
            elif fault == "ok":
                self._run(function, event)
            return Reply(202, b"")
        if fault == "crash":
            return Reply(200, b'{"errorType": "Runtime.ExitError", "errorMessage": "exit status 3"}', "Unhandled")
        if fault == "timeout":
            return Reply(200, b'{"errorMessage": "2026 x Task timed out after 3.00 seconds"}', "Unhandled")
        if fault == "oom":
            return Reply(200, b'{"errorType": "Runtime.OutOfMemory", "errorMessage": "signal: killed"}', "Unhandled")
        if fault == "junk":
            return Reply(200, b'["what?"]')
        return Reply(200, json.dumps(self._run(function, event)).encode())

    def _run(self, function, event):
        with self._lock:
            free = self._environments[function]
            found = free.pop() if free else Environment(self.storage, 512, 1 << 20, self._folder)
        try:
            return found.answer(event)
        finally:
            with self._lock:
                free.append(found)


@kernel("test.cloud")
def number(work, *, i, size=1, error=None, dtype="float64"):
    if error == "memory":
        raise MemoryError
    if error:
        raise ValueError(error)
    return (np.full(size, i, dtype=dtype), np.asfortranarray(np.arange(6.0).reshape(2, 3)) * i)


@pytest.fixture(scope="session")
def fakes():
    """The classes of this module, for fixtures of modules."""
    return CountedStorage, FakeLambda


@pytest.fixture
def counted():
    return CountedStorage()


@pytest.fixture
def fake(counted, tmp_path):
    def make(faults=None, **options):
        return FakeLambda(counted, tmp_path, faults, **options)

    return make
