"""Which variables the engine's processes get."""

from __future__ import annotations

import pytest

from core.process_environment import engine_environment, storage_environment

_KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL_S3": "http://s3"}


@pytest.mark.parametrize(
    ("storage", "passed"),
    [("s3://bucket/fabula", True), (" s3://bucket", True), ("/mnt/shared", False), ("", False)],
)
def test_the_engine_gets_keys_for_a_bucket_only_if_it_shares_one(storage: str, passed: bool) -> None:
    environ = {**_KEYS, "FABULA_RAY_STORAGE": storage, "OPENAI_API_KEY": "key"}
    assert storage_environment(environ) == (_KEYS if passed else {})
    assert not engine_environment(environ).keys() & {"AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY"}
