"""What AWS or the way to it has against a call, in one line with the fix. No credential ever gets into a message."""

from __future__ import annotations

import re
from collections.abc import Iterable

import botocore.exceptions as boto

from qat.deploy.aws.calls import Call
from qat.errors import InputError, QatError, RunError

DROPPED = "ConnectionDropped"
"""Our code of a connection that broke or could not be made."""

_BUSY = {"ThrottlingException", "Throttling", "ThrottledException", "TooManyRequestsException", "RequestLimitExceeded"}
_BUSY |= {"SlowDown", "ServiceUnavailable", "ServiceUnavailableException", "503"}
_BROKEN = {"InternalServerException", "InternalError", "InternalFailure", "RequestTimeout", "500", "502", "504"}
_RACED = {"ConditionalRequestConflict", "OperationAborted"}
TRANSIENT = frozenset({DROPPED} | _BUSY | _BROKEN | _RACED)
"""Codes that the same call may not get a second time."""

_ABSENT = frozenset(["404", "NotFound", "NoSuchKey", "NoSuchUpload", "NoSuchEntity", "ResourceNotFoundException"])
_DENIED = frozenset(["403", "Forbidden", "AccessDenied", "AccessDeniedException", "UnauthorizedOperation"])
_EXPIRED = frozenset(["ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"])
_UNKNOWN = {"InvalidClientTokenId", "InvalidAccessKeyId", "UnrecognizedClientException", "SignatureDoesNotMatch"}
_UNKNOWN |= {"InvalidSignatureException", "IncompleteSignature", "AuthFailure", "InvalidToken"}
_SIGN_IN = (
    "set target.profile or AWS_PROFILE, run aws sso login or aws configure, or set AWS_ACCESS_KEY_ID and its secret"
)
_NO_SIGN_IN = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.SSOError,
)


class AwsError(RunError):
    """AWS refused a call.

    Attributes:
        code: AWS's own, such as ``ThrottlingException``, or :data:`DROPPED`.
        told: AWS's own words.
    """

    def __init__(self, message: str, code: str, told: str) -> None:
        super().__init__(message)
        self.code, self.told = code, told

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed later."""
        return self.code in TRANSIENT

    @property
    def absent(self) -> bool:
        """Whether what was asked for does not exist; SageMaker has no code for it."""
        return self.code in _ABSENT or (self.code == "ValidationException" and "could not find" in self.told.lower())


def translate(error: Exception, call: Call, secrets: Iterable[str] = ()) -> QatError:
    """``error`` of botocore for people: the call, what happened, what to do.

    Args:
        error: what botocore raised.
        call: what was sent.
        secrets: texts that no message may hold.
    """
    if isinstance(error, boto.ClientError):
        return _refusal(error, call, secrets)
    told = clean(str(error), secrets)
    if isinstance(error, boto.ProfileNotFound):
        return InputError(f"{told}; name a profile of ~/.aws/config in target.profile, or leave it out")
    if isinstance(error, _NO_SIGN_IN):
        return InputError(f"no AWS credentials that work ({type(error).__name__}); {_SIGN_IN}")
    if isinstance(error, boto.NoRegionError | boto.InvalidRegionError):
        return InputError(f"{told}; name one in target.region")
    if isinstance(error, boto.SSLError):
        return RunError(f"{call.name}: the certificate was not accepted ({told}); check the proxy and target.endpoints")
    if isinstance(error, boto.HTTPClientError | boto.EndpointConnectionError | boto.ResponseStreamingError | OSError):
        text = f"{call.name} got no answer ({told}); check the network, target.region and target.endpoints"
        return AwsError(text, DROPPED, told)
    return RunError(f"{call.name} failed ({type(error).__name__}: {told})")


def clean(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` in one line, without ``secrets`` and without the user and password of a URL.

    Example:
        >>> clean("no way to http://me:pass@host", ["way"])
        'no *** to http://***@host'
    """
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", " ".join(redact(text, secrets).split()))


def redact(text: str, secrets: Iterable[str]) -> str:
    """``text`` with stars in place of each of ``secrets``, the longest first: one may hold another."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _refusal(error: boto.ClientError, call: Call, secrets: Iterable[str]) -> QatError:
    code, told = (error.response["Error"].get(part) or "" for part in ("Code", "Message"))
    told = clean(told, secrets)
    if code in _EXPIRED:
        return InputError(f"the AWS session has expired ({code}); sign in again (aws sso login) or renew its token")
    if code in _UNKNOWN:  # AWS's own words may hold what was signed, and with it a session token
        return InputError(f"AWS does not accept these credentials ({code}); {_SIGN_IN}")
    if code in _DENIED:
        text = f"AWS denied {call.name} ({told or code}); allow it to this user, or name another in target.profile"
        return AwsError(text, code, told)
    return AwsError(f"AWS refused {call.name}: {code}: {told}", code, told)
