"""Recursive loops: the lineage that Lambda keeps in the trace header, one count for each function of a chain.

The SDK in a function passes the header on (botocore's add_recursion_detection_header), so that a chain is known
across invocations. A function's count is kept as Lineage=1:HASH:COUNT, joined by "|" where several take part.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time

from infra.emulator import limits
from infra.emulator.functions import Function, InvokeError

_LINEAGE = re.compile(r"(?:^|;)Lineage=([^;]*)")
_ROOT = re.compile(r"(?:^|;)(Root=[^;]*)")


def passed_on(header: str, function: Function) -> str:
    """Trace header that a call of `function` gets; InvokeError where this chain has called it too often."""
    counts = _counts(header)
    name = hashlib.sha256(function.arn.encode()).hexdigest()[:8]
    counts[name] = counts.get(name, 0) + 1
    if counts[name] > limits.HOPS and not function.loops:
        message = f"Lambda stopped a recursive loop: {function.name} was invoked {limits.HOPS} times in one chain"
        raise InvokeError(400, "RecursiveInvocationException", message)
    found = _ROOT.search(header)
    root = found[1] if found else f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)}"
    lineage = "|".join(f"1:{name}:{count}" for name, count in counts.items())
    return f"{root};Parent={secrets.token_hex(8)};Sampled=0;Lineage={lineage}"


def _counts(header: str) -> dict[str, int]:
    found = _LINEAGE.search(header)
    counts = {}
    for part in found[1].split("|") if found else []:
        pieces = part.split(":")
        if len(pieces) == 3 and pieces[2].isdigit():
            counts[pieces[1]] = int(pieces[2])
    return counts
