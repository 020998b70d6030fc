"""IAM policy evaluation, as the reference of policy elements has it."""

from __future__ import annotations

from typing import Any

import pytest

from infra.emulator.policies import allowed

BUCKET = "arn:aws:s3:::b"
LIST = {
    "Effect": "Allow",
    "Action": "s3:ListBucket",
    "Resource": BUCKET,
    "Condition": {"StringLike": {"s3:prefix": ["jobs/*"]}},
}


def ask(statement: Any, action: str, resource: str, **context: str) -> bool:
    keys = {key.replace("__", ":"): value for key, value in context.items()}
    return allowed([{"Version": "2012-10-17", "Statement": statement}], action, resource, keys)


def test_nothing_is_allowed_but_what_a_statement_allows() -> None:
    get = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": f"{BUCKET}/data/*"}
    assert ask(get, "s3:GetObject", f"{BUCKET}/data/x/y")
    assert ask(get, "S3:getobject", f"{BUCKET}/data/")  # actions know no case
    assert not ask(get, "s3:GetObject", f"{BUCKET}/Data/x")  # resources do
    assert not ask(get, "s3:GetObject", f"{BUCKET}/jobs/x")
    assert not ask(get, "s3:GetObjectAcl", f"{BUCKET}/data/x")
    assert not ask([], "s3:GetObject", f"{BUCKET}/data/x")


def test_an_explicit_deny_wins_in_whatever_order() -> None:
    allow = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    deny = {"Effect": "Deny", "Action": "s3:DeleteObject", "Resource": f"{BUCKET}/data/*"}
    for statements in ([allow, deny], [deny, allow]):
        assert ask(statements, "s3:DeleteObject", f"{BUCKET}/jobs/x")
        assert not ask(statements, "s3:DeleteObject", f"{BUCKET}/data/x")


def test_not_action_and_not_resource() -> None:
    statement = {"Effect": "Allow", "NotAction": "iam:*", "NotResource": f"{BUCKET}/secret/*"}
    assert ask(statement, "s3:GetObject", f"{BUCKET}/x")
    assert not ask(statement, "iam:CreateUser", f"{BUCKET}/x")
    assert not ask(statement, "s3:GetObject", f"{BUCKET}/secret/x")


def test_dots_and_question_marks_in_patterns() -> None:
    statement = {"Effect": "Allow", "Action": "s3:Get*", "Resource": "arn:aws:s3:::a.b/?"}
    assert ask(statement, "s3:GetObject", "arn:aws:s3:::a.b/x")
    assert not ask(statement, "s3:GetObject", "arn:aws:s3:::a-b/x")
    assert not ask(statement, "s3:GetObject", "arn:aws:s3:::a.b/xy")


def test_listing_needs_the_prefix() -> None:
    assert ask(LIST, "s3:ListBucket", BUCKET, s3__prefix="jobs/3")
    assert not ask(LIST, "s3:ListBucket", BUCKET, s3__prefix="data/")
    assert not ask(LIST, "s3:ListBucket", BUCKET)
    lenient = {**LIST, "Condition": {"StringLikeIfExists": {"s3:prefix": "jobs/*"}}}
    assert ask(lenient, "s3:ListBucket", BUCKET)
    assert not ask(lenient, "s3:ListBucket", BUCKET, s3__prefix="data/")


@pytest.mark.parametrize(
    ("condition", "context", "holds"),
    [
        ({"StringEquals": {"k": ["a", "b"]}}, {"k": "b"}, True),
        ({"StringEquals": {"k": "a*"}}, {"k": "ab"}, False),
        ({"StringNotEquals": {"k": "a"}}, {"k": "a"}, False),
        ({"StringNotEquals": {"k": "a"}}, {}, True),
        ({"StringNotLike": {"k": "a*"}}, {"k": "ab"}, False),
        ({"Bool": {"k": "true"}}, {"k": "True"}, True),
        ({"Bool": {"k": "true"}}, {}, False),
        ({"Null": {"k": "true"}}, {}, True),
        ({"Null": {"k": "true"}}, {"k": "x"}, False),
        ({"ArnLike": {"k": "arn:aws:sts::1:assumed-role/r/*"}}, {"k": "arn:aws:sts::1:assumed-role/r/s"}, True),
        ({"StringEquals": {"k": "a"}, "Bool": {"j": "false"}}, {"k": "a", "j": "true"}, False),
    ],
)
def test_conditions(condition: Any, context: dict[str, str], *, holds: bool) -> None:
    statement = {"Effect": "Allow", "Action": "a:b", "Resource": "*", "Condition": condition}
    assert ask(statement, "a:b", "r", **context) is holds


def test_a_condition_that_is_not_known_fails_closed() -> None:
    condition = {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}
    allow = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    assert not ask({**allow, "Condition": condition}, "a:b", "r")
    assert not ask([allow, {**allow, "Effect": "Deny", "Condition": condition}], "a:b", "r")
