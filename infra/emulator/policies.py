"""IAM policy evaluation: does a set of policy documents allow an action on a resource in a context? Pure.

An explicit Deny wins over any Allow; what no statement allows is denied. Supported are Action/NotAction,
Resource/NotResource with * and ?, and the condition operators of `_OPERATORS` with their IfExists forms. A condition
of another kind fails closed: an Allow that carries it does not apply, a Deny that carries it does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

Document = Mapping[str, Any]


def allowed(documents: Iterable[Document], action: str, resource: str, context: Mapping[str, str]) -> bool:
    """Whether the documents (identity policies of one caller) allow `action` on `resource`.

    `context` holds the request's condition keys, in lower case ("s3:prefix", "aws:securetransport").
    """
    permitted = False
    for document in documents:
        for statement in _listed(document.get("Statement", [])):
            if not _concerns(statement, action, resource):
                continue
            denies = statement.get("Effect") != "Allow"
            if _conditions_hold(statement.get("Condition", {}), context, unknown=denies):
                if denies:
                    return False
                permitted = True
    return permitted


def _concerns(statement: Mapping[str, Any], action: str, resource: str) -> bool:
    acts = statement.get("Action", statement.get("NotAction", []))
    hit = any(matches(pattern.lower(), action.lower()) for pattern in _listed(acts))
    if hit == ("Action" not in statement):
        return False
    targets = statement.get("Resource", statement.get("NotResource", []))
    hit = any(matches(pattern, resource) for pattern in _listed(targets))
    return hit == ("Resource" in statement)


def _conditions_hold(conditions: Mapping[str, Any], context: Mapping[str, str], *, unknown: bool) -> bool:
    for operator, tests in conditions.items():
        if_exists = operator.endswith("IfExists")
        name = operator.removesuffix("IfExists")
        for key, expected in tests.items():
            value = context.get(key.lower())
            values = [str(item) for item in _listed(expected)]
            if name == "Null":
                if (value is None) != (values[0].lower() == "true"):
                    return False
            elif name not in _OPERATORS:
                return unknown
            elif value is None:
                if not if_exists and "Not" not in name:
                    return False
            elif not _OPERATORS[name](value, values):
                return False
    return True


def matches(pattern: str, text: str) -> bool:
    """Whether `text` matches a pattern in which * is any run of characters and ? any one."""
    return _compiled(pattern).fullmatch(text) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"([*?])", pattern)
    return re.compile("".join({"*": ".*", "?": "."}.get(piece, re.escape(piece)) for piece in pieces), re.DOTALL)


def _equal(value: str, expected: list[str]) -> bool:
    return value in expected


def _like(value: str, expected: list[str]) -> bool:
    return any(matches(pattern, value) for pattern in expected)


def _bool(value: str, expected: list[str]) -> bool:
    return value.lower() in {item.lower() for item in expected}


_OPERATORS: Final[dict[str, Callable[[str, list[str]], bool]]] = {
    "StringEquals": _equal,
    "StringNotEquals": lambda value, expected: not _equal(value, expected),
    "StringLike": _like,
    "StringNotLike": lambda value, expected: not _like(value, expected),
    "ArnEquals": _like,
    "ArnLike": _like,
    "Bool": _bool,
}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
