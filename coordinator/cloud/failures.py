"""Requests to AWS that fail: which are sent again, and what is said of the others."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, NoReturn

from coordinator.errors import StorageError, one_line

ATTEMPTS: Final = 6
ALLOWED: Final = "the role or user in use is not allowed to; see the policies of the deployment"
_AGAIN: Final = {
    "500", "502", "503", "504", "InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout", "Throttling",
    "ThrottlingException", "RequestTimeTooShort", "OperationAborted", "ConditionalRequestConflict",
}  # fmt: skip
_CREDENTIALS: Final = {
    "InvalidAccessKeyId", "InvalidClientTokenId", "SignatureDoesNotMatch", "InvalidToken",
    "UnrecognizedClientException",
    "AuthFailure", "InvalidSecurity",
}  # fmt: skip
_EXPIRED: Final = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}


def retried(
    run: Callable[[], Any], where: str, expected: dict[int, Any], pause: Callable[[float], None], bucket: str = ""
) -> Any:
    """What `run` returns, or the value that `expected` gives to the HTTP status it failed with.

    Failures of the service's own (500, 503, SlowDown, a lost connection) are tried again, ATTEMPTS times in all, after
    random pauses of at most 0.05 s at first and 2 s at last. Raises StorageError for others, and for one that lasts.
    """
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    for attempt in range(ATTEMPTS):
        last = attempt == ATTEMPTS - 1
        try:
            return run()
        except ClientError as error:
            status = int(error.response["ResponseMetadata"]["HTTPStatusCode"])
            code = str(error.response["Error"]["Code"])
            if status in expected and code != "NoSuchBucket":
                return expected[status]
            if last or not (code in _AGAIN or status >= 500 or status == 429):
                _fail(error, where, bucket)
        except (HTTPClientError, OSError) as error:
            if last:
                _fail(error, where, bucket)
        except BotoCoreError as error:
            _fail(error, where, bucket)
        pause(random.uniform(0, 0.05 * 2.5**attempt))  # noqa: S311  full jitter, so that writers do not meet again
    raise AssertionError


def _fail(error: Exception, where: str, bucket: str) -> NoReturn:
    raise StorageError(explain(error, where, bucket)) from None


def explain(error: Exception, where: str, bucket: str = "") -> str:
    """One line that says what is wrong with a request to AWS, and what to do."""
    name = type(error).__name__
    response = getattr(error, "response", {})
    code = str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
    message = str(response.get("Error", {}).get("Message", "")) if code else one_line(error)
    if name in {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}:
        return f"no usable AWS credentials ({message}): run `aws configure`, or set AWS_PROFILE"
    if code in _EXPIRED or name in {"SSOTokenLoadError", "UnauthorizedSSOTokenError", "TokenRetrievalError"}:
        return "the AWS credentials have expired: renew them, for single sign-on with `aws sso login`"
    if code in {"RequestTimeTooSkewed", "RequestInTheFuture"}:
        return "this machine's clock is off by more than AWS accepts: set it, say with `timedatectl set-ntp true`"
    if code in _CREDENTIALS:
        return f"AWS does not accept the credentials ({code}): check the access key, its secret and the session token"
    if code == "NoSuchBucket":
        return f"no bucket {bucket!r}: deploy first, or check its name and the region"
    if code in {"AccessDenied", "AccessDeniedException", "AllAccessDisabled", "403", "Forbidden"}:
        return f"access denied to {where}: {ALLOWED}"
    if name == "NoRegionError":
        return "no AWS region is set: set AWS_REGION, or run `aws configure`"
    if name in {"EndpointConnectionError", "ConnectTimeoutError", "ConnectionError", "ConnectionRefusedError"}:
        return f"cannot reach {where}: {message}; check the network, the region and AWS_ENDPOINT_URL"
    return f"cannot use {where}: {code + ': ' if code else ''}{message or name}"[:400]


__all__ = ["ALLOWED", "ATTEMPTS", "explain", "retried"]
