"""Who calls, and whether IAM lets them: moto knows users, roles and signatures; `policies` decides with conditions.

moto's own check ignores conditions of identity policies, does not look at the keys of a DeleteObjects request, and
answers 404 for a missing object to callers who may not list, where S3 answers 403.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from infra.emulator import limits
from infra.emulator.functions import InvokeError
from infra.emulator.policies import Document, allowed

_KEYS = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)
_LOCK = threading.Lock()
_ROLES: dict[str, dict[str, str]] = {}


def install() -> None:
    """Make moto authenticate and authorize every request, and make the user that deploys."""
    from moto.core.authorization import ActionAuthenticatorMixin
    from moto.iam.models import iam_backends

    ActionAuthenticatorMixin._authenticate_and_authorize_action = _authorize_moto  # noqa: SLF001
    backend = iam_backends[limits.ACCOUNT]["aws"]
    backend.create_user(limits.REGION, "overcast-local")
    everything = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
    backend.put_user_policy("overcast-local", "everything", everything)
    key = backend.create_access_key("overcast-local")
    key.access_key_id, key.secret_access_key = limits.ACCESS_KEY, limits.SECRET_KEY


def role_variables(role: str, region: str, session: str) -> dict[str, str]:
    """Environment variables with credentials of a role's session, as Lambda gives them to a function."""
    from moto.sts.models import sts_backends

    with _LOCK:
        if role not in _ROLES:
            assumed = sts_backends[limits.ACCOUNT]["aws"].assume_role(
                region_name=region,
                role_session_name=session,
                role_arn=role,
                policy="",
                duration=43200,
                external_id="",
            )
            _ROLES[role] = {
                "AWS_ACCESS_KEY_ID": assumed.access_key_id,
                "AWS_SECRET_ACCESS_KEY": assumed.secret_access_key,
                "AWS_SESSION_TOKEN": assumed.session_token,
            }
        return _ROLES[role]


def role_may(role: str, region: str, action: str, resource: str) -> bool:
    """Whether the policies of a role allow `action`, which Lambda itself takes in its name."""
    from moto.iam.access_control import AssumedRoleAccessKey

    held = role_variables(role, region, "lambda")
    token = {"X-Amz-Security-Token": held["AWS_SESSION_TOKEN"]}
    key = AssumedRoleAccessKey(limits.ACCOUNT, "aws", held["AWS_ACCESS_KEY_ID"], token)
    return allowed([_document(policy) for policy in key.collect_policies()], action, resource, {})


def check_lambda(environ: Mapping[str, Any], body: bytes, action: str, resource: str) -> None:
    """InvokeError where the caller did not sign this request or may not do `action`."""
    _check(environ, body, {action: {}}, resource)


def check_url(environ: Mapping[str, Any], body: bytes, resource: str) -> str:
    """ARN of the caller, who needs both permissions that function URLs ask for; InvokeError as above."""
    via = {"lambda:invokedviafunctionurl": "true"}
    return _check(environ, body, {"InvokeFunctionUrl": {}, "InvokeFunction": via}, resource)


def _check(environ: Mapping[str, Any], body: bytes, needs: Mapping[str, Mapping[str, str]], resource: str) -> str:
    """ARN of the caller, once the signature is right and IAM allows each action in its context."""
    from moto.core.exceptions import SignatureDoesNotMatchError
    from moto.iam.access_control import IAMRequest
    from werkzeug.exceptions import HTTPException

    if "HTTP_AUTHORIZATION" not in environ:
        raise InvokeError(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
    headers = {k[5:].replace("_", "-").title(): v for k, v in environ.items() if k.startswith("HTTP_")}
    if "CONTENT_TYPE" in environ:
        headers["Content-Type"] = environ["CONTENT_TYPE"]
    try:
        request = IAMRequest(
            account_id=limits.ACCOUNT,
            method=environ["REQUEST_METHOD"],
            path=environ["RAW_URI"],
            data={},
            body=body,
            headers=headers,
            action=next(iter(needs)),
        )
        request.check_signature()
    except SignatureDoesNotMatchError:
        message = "The request signature we calculated does not match the signature you provided."
        raise InvokeError(403, "InvalidSignatureException", message) from None
    except (HTTPException, IndexError, KeyError):
        message = "The security token included in the request is invalid."
        raise InvokeError(403, "UnrecognizedClientException", message) from None
    arn = str(request._access_key.arn)  # noqa: SLF001
    documents = _documents(request)
    for action, context in needs.items():
        if not allowed(documents, f"lambda:{action}", resource, context):
            message = (
                f"User: {arn} is not authorized to perform: lambda:{action} on resource: {resource} "
                f"because no identity-based policy allows the lambda:{action} action"
            )
            raise InvokeError(403, "AccessDeniedException", message)
    return arn


def _documents(request: Any) -> list[Document]:
    return [_document(policy) for policy in request._access_key.collect_policies()]  # noqa: SLF001


def _document(policy: Any) -> Document:
    """The policy document that moto keeps as JSON, as a mapping, as a mapping around it, or as a model of its own."""
    while not isinstance(policy, Mapping) or "Statement" not in policy:
        if isinstance(policy, str):
            policy = json.loads(policy)
        elif isinstance(policy, Mapping):
            policy = policy["policy_document"]
        else:
            policy = next(version for version in policy.versions if version.is_default).document
    return policy


def _authorize_moto(self: Any, iam_request_cls: Any, resource: str = "*") -> None:
    """Stands for moto's method of this name: `self` is a moto response; raises moto's errors."""
    if "Authorization" not in self.headers:
        from moto.s3.exceptions import S3AccessDeniedError

        raise S3AccessDeniedError
    parts = urlsplit(self.uri)
    forms = self.method == "POST" or iam_request_cls.__name__ == "S3IAMRequest"
    request = iam_request_cls(
        account_id=self.current_account,
        method=self.method,
        path=self.raw_path + (f"?{parts.query}" if parts.query else ""),
        data=self.data if forms else {},  # moto takes it for the body of a request that has none
        body=self.raw_body,
        headers=self.headers,
        action=self._get_action(),
    )
    request.check_signature()
    action = request._action  # noqa: SLF001
    if action == "sts:GetCallerIdentity":
        return
    documents = _documents(request)
    if not all(allowed(documents, *need) for need in _needs(self, action, resource, parts.query)):
        request._raise_access_denied()  # noqa: SLF001
    if action == "sts:AssumeRole":
        request.check_action_permitted(resource)


def _needs(response: Any, action: str, resource: str, query: str) -> list[tuple[str, str, dict[str, str]]]:
    """What IAM must allow for this request: actions, their resources and their contexts."""
    context = {}
    if action in {"s3:ListBucket", "s3:ListBucketVersions"}:
        asked = parse_qs(query, keep_blank_values=True)
        context = {f"s3:{key}": asked[key][0] for key in ("prefix", "delimiter", "max-keys") if key in asked}
    if action == "s3:DeleteObject" and "/" not in resource:
        return [(action, f"{resource}/{key.decode()}", {}) for key in _KEYS.findall(response.body)]
    needs = [(action, resource, context)]
    if action == "s3:PutObject" and (source := response.headers.get("x-amz-copy-source")):
        needs.append(("s3:GetObject", f"arn:aws:s3:::{unquote(source).split('?')[0].lstrip('/')}", {}))
    if action == "s3:GetObject" and "/" in resource and not _exists(response, resource):
        needs.append(("s3:ListBucket", resource.split("/", 1)[0], {}))
    return needs


def _exists(response: Any, resource: str) -> bool:
    bucket, key = resource.removeprefix("arn:aws:s3:::").split("/", 1)
    found = response.backend.buckets.get(bucket)
    return found is None or key in found.keys
