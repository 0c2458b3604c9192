"""S3 through fsspec: the only module that knows s3fs (requirements-s3.txt) and the errors of what is below it.

Credentials and the server's address come from the usual variables (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL_S3`, …),
`~/.aws`, or the host's role.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from core import logs

Fault = Literal["no_bucket", "no_credentials", "denied", "full", "unreachable"]
"""Why a request failed; `unreachable` is everything that may succeed later."""

_CONNECT_S = 3
_FULL = frozenset({"QuotaExceeded", "XMinioStorageFull", "XMinioStorageQuotaExceeded", "507", "InsufficientCapacity"})
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound")


def connect(read_s: int, tries: int) -> Any:
    """A client of its own, safe to share between threads.

    Args:
        read_s: seconds without an answer after which a request has failed.
        tries: how often a request is sent at most.

    Raises:
        ImportError: s3fs is not installed.
    """
    import fsspec  # here, because s3fs and botocore take most of a second

    for variable in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        logs.register_secret(os.environ.get(variable, ""))
    client = fsspec.filesystem(
        "s3",
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={
            "connect_timeout": _CONNECT_S,
            "read_timeout": read_s,
            "retries": {"mode": "standard", "total_max_attempts": tries},
        },
    )
    client.retries = tries
    return client


def fault(error: BaseException) -> Fault:
    """What an error of the client means: one of s3fs, botocore, aiohttp or asyncio."""
    if code(error) == "NoSuchBucket":
        return "no_bucket"
    if type(error).__name__ in _NO_CREDENTIALS:
        return "no_credentials"
    if isinstance(error, PermissionError):
        return "denied"
    return "full" if code(error) in _FULL else "unreachable"


def code(error: BaseException) -> str:
    """The server's error code; "" if no server answered."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return str(response["Error"].get("Code", "")) if isinstance(response, dict) and "Error" in response else ""
