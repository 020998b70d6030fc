r"""Fault plans: which invocation or S3 request meets which fault. Pure: the plan and what was seen decide.

A plan is JSON:

    {"seed": 7,
     "rules": [{"function": "*-worker", "nth": [3], "fault": {"kind": "exit"}},
               {"function": "*-worker", "contains": "\"task\": 4", "times": 2, "fault": {"kind": "throttle"}},
               {"function": "*-worker*", "rate": 0.05,
                "fault": {"kind": "straggle", "delay": {"pareto": {"scale": 0.5, "alpha": 1.5}}}}],
     "s3": [{"prefix": "jobs/", "methods": ["PUT"], "rate": 0.1}]}

The first rule that matches applies. A rule without `nth`, `contains` and `rate` matches every call of its functions.
Chance is a hash of the seed, the rule, the function, the payload and how often that payload was seen before, so that
the same calls meet the same fate in whatever order they arrive.

Kinds: straggle (starts late, within the time limit), late (the work is done, the answer is late), die (killed; no
answer before the time limit), exit (killed; the answer says so), oom (killed for its memory), throttle (429, not
run), duplicate (delivered twice). For die, exit and oom the delay is the time after the hand-over, which a cold start
precedes, at which the process is killed (default 0: before any work); a call that ends sooner is killed at its end,
its work done and its answer lost.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from statistics import NormalDist
from typing import Any, Final

KINDS: Final = ("straggle", "late", "die", "exit", "oom", "throttle", "duplicate")
_KILLS: Final = ("die", "exit", "oom")


class PlanError(ValueError):
    """A fault plan that cannot be used as written."""


@dataclass(frozen=True)
class Delay:
    """Seconds by a distribution: fixed (a), lognormal (median a, sigma b) or Pareto (scale a, alpha b)."""

    kind: str
    a: float
    b: float = 0.0

    def at(self, u: float) -> float:
        """Quantile of u in (0, 1)."""
        if self.kind == "lognormal":
            return self.a * math.exp(self.b * NormalDist().inv_cdf(u))
        if self.kind == "pareto":
            return self.a * (1.0 - u) ** (-1.0 / self.b)
        return self.a


@dataclass(frozen=True)
class Fault:
    """A fault as decided: its kind and, where it has one, its delay in seconds."""

    kind: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Call:
    """An invocation as the plan sees it: the nth of its function (from 1); `seen` earlier ones had this payload."""

    function: str
    nth: int
    payload: bytes = b""
    seen: int = 0


@dataclass(frozen=True)
class Rule:
    """Calls (by function, nth, payload and chance) that meet a fault, at most `times` of them."""

    kind: str
    function: str = "*"
    nth: frozenset[int] = frozenset()
    contains: bytes = b""
    rate: float = 1.0
    times: float = math.inf
    delay: Delay = field(default_factory=lambda: Delay("fixed", 0.0))


@dataclass(frozen=True)
class S3Rule:
    """503 SlowDown for a share of the requests to keys under a prefix."""

    prefix: str = ""
    methods: frozenset[str] = frozenset()
    rate: float = 1.0
    times: float = math.inf


@dataclass(frozen=True)
class Plan:
    """Rules for invocations and for S3 requests, and the seed of their chance."""

    seed: int = 0
    rules: tuple[Rule, ...] = ()
    s3: tuple[S3Rule, ...] = ()

    def decide(self, call: Call, fired: Mapping[int, int]) -> tuple[int, Fault] | None:
        """Rule (by position) and fault of a call, or None; `fired` says how often each rule applied before."""
        for i, rule in enumerate(self.rules):
            if not fnmatchcase(call.function, rule.function) or fired.get(i, 0) >= rule.times:
                continue
            if (rule.nth and call.nth not in rule.nth) or rule.contains not in call.payload:
                continue
            name = (self.seed, i, call.function, hashlib.sha256(call.payload).hexdigest(), call.seen)
            if rule.rate >= 1.0 or _uniform("rate", *name) < rule.rate:
                return i, Fault(rule.kind, rule.delay.at(_uniform("delay", *name)))
        return None

    def slow_down(self, method: str, key: str, seen: int, fired: Mapping[int, int]) -> int | None:
        """Rule (by position) that answers this S3 request with 503; `seen` earlier ones had this method and key."""
        for i, rule in enumerate(self.s3):
            if not key.startswith(rule.prefix) or (rule.methods and method not in rule.methods):
                continue
            if fired.get(i, 0) >= rule.times:
                continue
            if rule.rate >= 1.0 or _uniform("s3", self.seed, i, method, key, seen) < rule.rate:
                return i
        return None


def _uniform(*name: object) -> float:
    """A number in (0, 1) that the name fixes."""
    digest = hashlib.blake2b(repr(name).encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 11) + 0.5) / 2**53


# ------------------------------------------------------------------------------------------------------- from JSON


def parse_plan(document: object) -> Plan:
    """A plan from its JSON document; PlanError names the first thing wrong with it."""
    top = _fields(document, "plan", {"seed", "rules", "s3"})
    seed = top.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise PlanError(f"plan: seed must be an integer, not {seed!r}")
    return Plan(
        seed,
        tuple(_rule(item, f"rules[{i}]") for i, item in enumerate(_list(top, "rules", "plan"))),
        tuple(_s3_rule(item, f"s3[{i}]") for i, item in enumerate(_list(top, "s3", "plan"))),
    )


def _rule(item: object, where: str) -> Rule:
    rule = _fields(item, where, {"function", "nth", "contains", "rate", "times", "fault"})
    fault = _fields(rule.get("fault"), f"{where}.fault", {"kind", "delay"})
    kind = fault.get("kind")
    if kind not in KINDS:
        raise PlanError(f"{where}.fault: kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if "delay" in fault and kind in {"throttle", "duplicate"}:
        raise PlanError(f"{where}.fault: {kind} takes no delay")
    if "delay" not in fault and kind not in {*_KILLS, "throttle", "duplicate"}:
        raise PlanError(f"{where}.fault: {kind} needs a delay, in seconds or as a distribution")
    nth = rule.get("nth", [])
    nth = [nth] if isinstance(nth, int) else nth
    if not isinstance(nth, list) or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in nth):
        raise PlanError(f"{where}: nth must be positive integers, not {nth!r}")
    return Rule(
        kind,
        _text(rule, "function", where, "*"),
        frozenset(nth),
        _text(rule, "contains", where, "").encode(),
        _number(rule, "rate", where, 1.0, upper=1.0),
        _number(rule, "times", where, math.inf),
        _delay(fault.get("delay", 0), f"{where}.fault.delay"),
    )


def _s3_rule(item: object, where: str) -> S3Rule:
    rule = _fields(item, where, {"prefix", "methods", "rate", "times"})
    methods = _list(rule, "methods", where)
    if not all(isinstance(method, str) for method in methods):
        raise PlanError(f"{where}: methods must be names such as GET, not {methods!r}")
    return S3Rule(
        _text(rule, "prefix", where, ""),
        frozenset(method.upper() for method in methods),
        _number(rule, "rate", where, 1.0, upper=1.0),
        _number(rule, "times", where, math.inf),
    )


def _delay(value: object, where: str) -> Delay:
    if isinstance(value, dict) and len(value) == 1:
        ((kind, inside),) = value.items()
        if kind == "lognormal":
            given = _fields(inside, f"{where}.lognormal", {"median", "sigma"})
            return Delay(kind, _number(given, "median", where), _number(given, "sigma", where))
        if kind == "pareto":
            given = _fields(inside, f"{where}.pareto", {"scale", "alpha"})
            alpha = _number(given, "alpha", where)
            if alpha == 0:
                raise PlanError(f"{where}: alpha must be > 0")
            return Delay(kind, _number(given, "scale", where), alpha)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Delay("fixed", _number({"seconds": value}, "seconds", where))
    raise PlanError(f"{where}: seconds, or a lognormal or a pareto distribution, not {value!r}")


def _fields(value: object, where: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PlanError(f"{where}: must be an object, not {value!r}")
    if unknown := sorted(set(map(str, value)) - known):
        raise PlanError(f"{where}: unknown {unknown[0]!r}; known are {', '.join(sorted(known))}")
    return value


def _list(holder: dict[str, Any], name: str, where: str) -> list[Any]:
    value = holder.get(name, [])
    if not isinstance(value, list):
        raise PlanError(f"{where}: {name} must be a list, not {value!r}")
    return value


def _text(holder: dict[str, Any], name: str, where: str, default: str) -> str:
    value = holder.get(name, default)
    if not isinstance(value, str):
        raise PlanError(f"{where}: {name} must be text, not {value!r}")
    return value


def _number(
    holder: dict[str, Any], name: str, where: str, default: float | None = None, upper: float = math.inf
) -> float:
    value = holder.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= upper:
        span = ">= 0" if upper == math.inf else f"from 0 to {upper:g}"
        raise PlanError(f"{where}: {name} must be a number {span}, not {value!r}")
    return float(value)
