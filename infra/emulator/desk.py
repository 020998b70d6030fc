"""The fault plan in force, with what it needs to remember: how often each thing was seen and each rule applied."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from typing import Any

from infra.emulator.faults import Call, Fault, Plan


class FaultDesk:
    """Thread-safe; a new plan forgets everything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.use(Plan())

    def use(self, plan: Plan) -> None:
        with self._lock:
            self._plan = plan
            self._nth: Counter[str] = Counter()
            self._seen: Counter[tuple[str, str]] = Counter()
            self._fired: Counter[int] = Counter()
            self._fired_s3: Counter[int] = Counter()
            self._kinds: Counter[str] = Counter()

    def decide(self, function: str, payload: bytes) -> Fault | None:
        """The fault that this invocation meets, counted as applied."""
        with self._lock:
            self._nth[function] += 1
            if not self._plan.rules:
                return None
            seen = (function, hashlib.sha256(payload).hexdigest())
            found = self._plan.decide(Call(function, self._nth[function], payload, self._seen[seen]), self._fired)
            self._seen[seen] += 1
            if found is None:
                return None
            self._fired[found[0]] += 1
            self._kinds[found[1].kind] += 1
            return found[1]

    def slow_down(self, method: str, key: str) -> bool:
        """Whether this S3 request is answered with 503, counted as applied."""
        with self._lock:
            if not self._plan.s3:
                return False
            rule = self._plan.slow_down(method, key, self._seen[method, key], self._fired_s3)
            self._seen[method, key] += 1
            if rule is None:
                return False
            self._fired_s3[rule] += 1
            self._kinds["503"] += 1
            return True

    def applied(self) -> dict[str, Any]:
        """Faults applied since the plan came into force, by kind, and invocations by function."""
        with self._lock:
            return {"faults": dict(self._kinds), "invocations": dict(self._nth)}
