"""The fault plan decides without processes: scripted rules, seeded chance, delays, S3, and what it refuses."""

from __future__ import annotations

import math

import pytest

from infra.emulator.desk import FaultDesk
from infra.emulator.faults import Call, Delay, Fault, PlanError, parse_plan

NONE: dict[int, int] = {}


def test_scripted_rules_match_function_nth_and_payload() -> None:
    plan = parse_plan(
        {
            "rules": [
                {"function": "*-worker", "nth": [2, 4], "fault": {"kind": "exit"}},
                {"function": "*-worker", "contains": '"task": 7', "fault": {"kind": "throttle"}},
                {"function": "x-driver", "fault": {"kind": "late", "delay": 1.5}},
            ]
        }
    )
    decided = [plan.decide(Call("x-worker", nth, b"{}"), NONE) for nth in range(1, 6)]
    assert [found and found[1].kind for found in decided] == [None, "exit", None, "exit", None]
    assert plan.decide(Call("x-worker", 1, b'{"task": 7}'), NONE) == (1, Fault("throttle"))
    assert plan.decide(Call("x-worker", 2, b'{"task": 7}'), NONE) == (0, Fault("exit"))  # the first rule that matches
    assert plan.decide(Call("x-driver", 1, b""), NONE) == (2, Fault("late", 1.5))
    assert plan.decide(Call("x-worker-large", 2, b'{"task": 7}'), NONE) is None


def test_times_ends_a_rule() -> None:
    desk = FaultDesk()
    desk.use(parse_plan({"rules": [{"times": 2, "fault": {"kind": "oom"}}]}))
    assert [desk.decide("f", b"") is not None for _ in range(4)] == [True, True, False, False]
    assert desk.applied() == {"faults": {"oom": 2}, "invocations": {"f": 4}}
    desk.use(parse_plan({"rules": [{"times": 2, "fault": {"kind": "oom"}}]}))
    assert desk.decide("f", b"") is not None


def test_chance_has_its_rate_and_does_not_depend_on_order() -> None:
    plan = parse_plan({"seed": 3, "rules": [{"rate": 0.2, "fault": {"kind": "exit"}}]})
    payloads = [str(i).encode() for i in range(5000)]
    fates = {p: plan.decide(Call("f", i, p), NONE) is not None for i, p in enumerate(payloads, 1)}
    assert fates == {p: plan.decide(Call("f", i, p), NONE) is not None for i, p in enumerate(reversed(payloads), 1)}
    assert abs(sum(fates.values()) / 5000 - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 5000)
    again = sum(plan.decide(Call("f", 1, p, seen=1), NONE) is not None for p, hit in fates.items() if hit)
    assert 0.1 < again / sum(fates.values()) < 0.3  # the second attempt has its own chance
    other = parse_plan({"seed": 4, "rules": [{"rate": 0.2, "fault": {"kind": "exit"}}]})
    assert fates != {p: other.decide(Call("f", 1, p), NONE) is not None for p in payloads}


def test_delays_follow_their_distributions() -> None:
    u = [(i + 0.5) / 1000 for i in range(1000)]
    assert {Delay("fixed", 2.0).at(x) for x in u} == {2.0}
    lognormal = sorted(Delay("lognormal", 3.0, 0.5).at(x) for x in u)
    assert lognormal[500] == pytest.approx(3.0, rel=0.01)
    assert lognormal[841] / lognormal[500] == pytest.approx(math.exp(0.5), rel=0.01)  # one sigma
    pareto = [Delay("pareto", 0.5, 1.5).at(x) for x in u]
    assert min(pareto) >= 0.5
    assert sum(x > 1.0 for x in pareto) / 1000 == pytest.approx(0.5**1.5, abs=0.002)  # P(> x) = (scale / x)^alpha


def test_straggle_draws_a_delay_for_each_call() -> None:
    delay = {"pareto": {"scale": 0.5, "alpha": 1.5}}
    plan = parse_plan({"rules": [{"fault": {"kind": "straggle", "delay": delay}}]})
    drawn = {found[1].seconds for i in range(50) if (found := plan.decide(Call("f", i, str(i).encode()), NONE))}
    assert len(drawn) == 50
    assert min(drawn) >= 0.5


def test_s3_rules_slow_a_share_of_a_prefix() -> None:
    plan = parse_plan({"seed": 1, "s3": [{"prefix": "jobs/", "methods": ["put"], "rate": 0.5}]})
    keys = [f"jobs/{i}" for i in range(1000)]
    slowed = [plan.slow_down("PUT", key, 0, NONE) is not None for key in keys]
    assert 400 < sum(slowed) < 600
    assert slowed == [plan.slow_down("PUT", key, 0, NONE) is not None for key in keys]
    assert plan.slow_down("GET", keys[0], 0, NONE) is None
    assert not any(plan.slow_down("PUT", f"data/{i}", 0, NONE) is not None for i in range(100))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "plan: must be an object"),
        ({"seeds": 1}, "plan: unknown 'seeds'; known are rules, s3, seed"),
        ({"seed": 1.5}, "plan: seed must be an integer"),
        ({"rules": {}}, "plan: rules must be a list"),
        ({"rules": [{}]}, "rules[0].fault: must be an object"),
        ({"rules": [{"fault": {"kind": "slow"}}]}, "rules[0].fault: kind must be one of straggle"),
        ({"rules": [{"fault": {"kind": "straggle"}}]}, "straggle needs a delay"),
        ({"rules": [{"fault": {"kind": "throttle", "delay": 1}}]}, "throttle takes no delay"),
        ({"rules": [{"fault": {"kind": "late", "delay": -1}}]}, "seconds must be a number >= 0"),
        ({"rules": [{"fault": {"kind": "late", "delay": {"weibull": {}}}}]}, "a lognormal or a pareto"),
        ({"rules": [{"fault": {"kind": "late", "delay": {"pareto": {"scale": 1, "alpha": 0}}}}]}, "alpha must be > 0"),
        ({"rules": [{"fault": {"kind": "late", "delay": {"pareto": {"scale": 1}}}}]}, "alpha must be a number"),
        ({"rules": [{"rate": 1.5, "fault": {"kind": "exit"}}]}, "rules[0]: rate must be a number from 0 to 1"),
        ({"rules": [{"nth": [0], "fault": {"kind": "exit"}}]}, "nth must be positive integers"),
        ({"rules": [{"function": 3, "fault": {"kind": "exit"}}]}, "function must be text"),
        ({"s3": [{"methods": [1]}]}, "s3[0]: methods must be names"),
    ],
)
def test_a_wrong_plan_is_refused_in_one_line(document: object, words: str) -> None:
    with pytest.raises(PlanError) as error:
        parse_plan(document)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
